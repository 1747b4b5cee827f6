"""What docs/ci.md and action.yml offer: the files are what GitHub and GitLab take, and the action's own steps run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from sdi.runtime.engine.manifest import manifest_path
from sdi.runtime.engine.shipped import find_engine
from support import command, shell_scripts, shipped_weights

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
PAGE = (ROOT / "docs" / "ci.md").read_text()
WORKFLOW, PIPELINE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = Path(sys.executable).parent
MINET = find_engine("minet")


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ((ROOT / "action.yml").read_text(), "vendor.github-actions"),
        (WORKFLOW, "vendor.github-workflows"),
        (PIPELINE, "vendor.gitlab-ci"),
    ],
    ids=["action", "workflow", "pipeline"],
)
def test_files_are_by_the_schemas_of_those_who_read_them(text: str, schema: str, tmp_path: Path) -> None:
    (tmp_path / "file.yml").write_text(text)
    done = command("check-jsonschema", "--builtin-schema", schema, tmp_path / "file.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_input_is_pasted_into_a_script() -> None:
    """An expression within a script would make a command of whatever a file or a branch is called."""
    scripts = shell_scripts(ACTION) + shell_scripts(yaml.safe_load(WORKFLOW))
    assert len(scripts) >= 6
    assert not [script for script in scripts if "${{" in script]


def test_every_input_is_described_and_used() -> None:
    text = (ROOT / "action.yml").read_text()
    for name, one in ACTION["inputs"].items():
        assert one["description"]
        assert one.get("required") or isinstance(one["default"], str)
        assert f"inputs.{name}" in text
    given = yaml.safe_load(WORKFLOW)["jobs"]["parity"]["steps"]
    (used,) = [step["with"] for step in given if step.get("uses", "").startswith("OWNER/REPO")]
    assert set(used) <= set(ACTION["inputs"])


def _commands() -> list[list[str]]:
    """Every sdi command of the page and of the two pipelines, as words."""
    lines = shell_scripts(yaml.safe_load(WORKFLOW))
    for job in yaml.safe_load(PIPELINE).values():
        if isinstance(job, dict):
            lines += [line for key in ("before_script", "script") for line in job.get(key, [])]
    lines += re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in whole if line.startswith("sdi-")]


def test_every_option_that_is_shown_exists() -> None:
    shown: dict[str, set[str]] = {}
    for program, *words in _commands():
        shown.setdefault(program, set()).update(word for word in words if word.startswith("-"))
    assert set(shown) == {"sdi-train", "sdi-calibrate", "sdi-export", "sdi-parity"}
    for program, options in shown.items():
        done = subprocess.run(
            [PROGRAMS / program, "--help"],
            env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", done.stdout)), program


def _first_given(expression: str, values: dict[str, str]) -> str:
    """What GitHub makes of `inputs.a || inputs.b`."""
    given = [values[name.removeprefix("inputs.")] for name in expression.split(" || ")]
    return next((value for value in given if value), "")


def run_action(folder: Path, **inputs: str) -> tuple[int, str, str]:
    """The action's own scripts as a runner runs them: exit code, log and the job's summary."""
    values = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | {
        name.replace("_", "-"): value for name, value in inputs.items()
    }
    summary = folder / "summary.md"
    around = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(summary)}
    code, log = 0, ""
    for step in ACTION["runs"]["steps"]:
        if "run" not in step or step["name"] == "Install sdi" or (code and step.get("if") != "always()"):
            continue
        own = {
            name: re.sub(r"\$\{\{ (inputs\.[^}]+) \}\}", lambda found: _first_given(found[1], values), text)
            for name, text in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env={**around, **own},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        code, log = code or done.returncode, log + done.stdout + done.stderr
    return code, log, summary.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A user's repository: a checkpoint, and an engine with its manifest in a folder with a space."""
    engines = tmp_path / "new engines"
    engines.mkdir()
    for file in (MINET, manifest_path(MINET)):
        shutil.copy(file, engines)
    shutil.copy(shipped_weights("minet"), tmp_path / "best.pt")
    return tmp_path


def test_the_action_passes_and_writes_its_summary(checkout: Path) -> None:
    code, log, summary = run_action(
        checkout,
        checkpoint="best.pt",
        engines="\nnew engines/*\r\n",
        record="releases",
        release="1.0",
    )
    assert code == 0, log
    assert "passed" in summary.splitlines()[0]
    assert MINET.name in summary
    suites = ElementTree.parse(checkout / "parity-report" / "parity.xml").getroot()
    assert int(suites.get("tests", "0")) > 5
    assert [path.name for path in (checkout / "releases").iterdir()] == ["minet-fp32-onnx-1.0.json"]


def test_the_action_fails_where_the_gate_fails(checkout: Path) -> None:
    (checkout / "bounds.toml").write_text("[fp32]\nmax = 0\n")
    code, log, summary = run_action(
        checkout, checkpoint="best.pt", engines=f"new engines/{MINET.name}", tolerances="bounds.toml", report="out"
    )
    assert code == 1
    assert "max difference" in log
    assert "FAILED" in summary.splitlines()[0]
    assert (checkout / "out" / "parity.html").is_file()


def test_what_an_input_holds_is_never_a_command(checkout: Path) -> None:
    hostile = "$(touch ran)`touch ran`; touch ran; \"'--json"
    code, log, summary = run_action(checkout, checkpoint=hostile, engines=f"{hostile}\n--self-test", images=hostile)
    assert code == 2
    assert hostile in log
    assert "could not compare" in summary
    assert not (checkout / "ran").exists()
