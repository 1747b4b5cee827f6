"""What GitHub and contributors read: files are by their schemas, and documents point at what is there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdi import __version__
from support import command, shell_scripts

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
    ],
)
def test_files_are_by_the_schemas_of_those_who_read_them(schema: str, files: list[Path]) -> None:
    assert files
    done = command("check-jsonschema", "--builtin-schema", schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_and_pastes_nothing_into_a_script(path: Path) -> None:
    workflow = _yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    asked = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert asked in ({}, {"publish": {"id-token": "write"}})  # PyPI's trusted publishing
    scripts = shell_scripts(workflow)
    assert scripts
    assert not [script for script in scripts if "${{" in script]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for script in shell_scripts(_yaml(path)):
        assert set(re.findall(r"make (\w+)", script)) <= targets
        for program in re.findall(r"\.ci/[\w-]+", script):
            assert os.access(ROOT / program, os.X_OK), program


def test_every_python_that_is_promised_is_installed_on() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"Python :: (3\.\d+)", text) == PYTHONS
    assert f'requires-python = ">={PYTHONS[0]},<3.{int(PYTHONS[-1].split(".")[1]) + 1}"' in text
    for path in WORKFLOWS:
        assert _yaml(path)["jobs"]["install"]["strategy"]["matrix"]["python"] == PYTHONS
    tested = _yaml(GITHUB / "workflows" / "checks.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert {PYTHONS[0], PYTHONS[-1]} <= set(tested)


def test_the_parity_gate_runs_on_every_network_that_comes_with_sdi() -> None:
    job = _yaml(GITHUB / "workflows" / "checks.yml")["jobs"]["parity"]
    (step,) = [step for step in job["steps"] if step.get("uses") == "./"]
    assert set(step["with"]) <= set(_yaml(ROOT / "action.yml")["inputs"])
    models = job["strategy"]["matrix"]["model"]
    judged: set[Path] = set()
    for model in models:
        checkpoint, engines = (
            step["with"][name].replace("${{ matrix.model }}", model) for name in ("checkpoint", "engines")
        )
        assert (ROOT / checkpoint).is_file()
        judged |= set(ROOT.glob(engines))
    assert judged == set((ROOT / "runtime" / "shipped").glob("*.onnx"))


@pytest.mark.parametrize(
    ("tag", "section", "said"),
    [
        (f"v{__version__}", __version__, ""),
        ("v9.9.9", __version__, f"sdi/__init__.py says {__version__}"),
        (f"v{__version__}", "9.9.9", f"CHANGELOG.md has no section [{__version__}]"),
    ],
)
def test_a_release_needs_its_tag_and_its_section_of_the_changelog(
    tmp_path: Path, tag: str, section: str, said: str
) -> None:
    (tmp_path / "sdi").mkdir()
    (tmp_path / "sdi" / "__init__.py").write_text((ROOT / "sdi" / "__init__.py").read_text())
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{section}] - 2030-01-31\n")
    script = shell_scripts(_yaml(GITHUB / "workflows" / "release.yml")["jobs"]["build"])[0]
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "GITHUB_REF_NAME": tag},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if said else 0)
    assert said in done.stdout


def test_hooks_before_a_commit_run_the_checks_of_lint() -> None:
    (local,) = _yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].split() for hook in local["hooks"]]
    programs = {(Path(entry[0]).name, *entry[1:2]) for entry in entries}
    assert {("ruff", "check"), ("ruff", "format"), ("mypy",)} <= programs


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path), target


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md", "docs/releasing.md"])
def test_files_that_a_guide_names_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"`([a-z.][\w.-]*/[\w./-]*)`", text))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
