from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.strip import DEFECTS, draw_strip
from sdi.train.checkpoint import Checkpoint, load_checkpoint, load_network, save_checkpoint, shipped_checkpoint
from sdi.train.engine_module import EngineModule
from sdi.train.models import build_model
from sdi.train.preprocess import GRAY_STEEL


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        model="minet",
        input_hw=(64, 96),
        preprocessing=replace(GRAY_STEEL, divide_by_max=True),
        weights=build_model("minet").state_dict(),
        metrics={"S": 0.5},
        native_hw=(200, 180),
        mm_per_pixel=0.25,
        training={"epoch": 3.5, "state": {"best": float("-inf"), "rng": torch.get_rng_state()}},
    )


@pytest.fixture
def saved(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(tmp_path / "net.pt", checkpoint)
    return tmp_path / "net.pt"


def rewrite(path: Path, **change: object) -> None:
    torch.save({**torch.load(path, weights_only=True), **change}, path)


def error_of(function: Callable[..., object], *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def test_comes_back_whole(saved: Path, checkpoint: Checkpoint) -> None:
    back = load_checkpoint(saved, "minet")
    assert (back.model, back.family, back.input_hw) == ("minet", "minet", (64, 96))
    assert back.preprocessing == checkpoint.preprocessing
    assert back.metrics == {"S": 0.5}
    assert back.training["epoch"] == 3.5
    assert (back.native_hw, back.mm_per_pixel) == ((200, 180), 0.25)
    assert torch.equal(back.training["state"]["rng"], checkpoint.training["state"]["rng"])
    assert list(back.weights) == list(checkpoint.weights)
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in checkpoint.weights.items())


def test_older_ones_do_not_tell_their_scale(saved: Path) -> None:
    value = torch.load(saved, weights_only=True)
    del value["native_hw"], value["mm_per_pixel"]
    torch.save(value, saved)
    assert (load_checkpoint(saved).native_hw, load_checkpoint(saved).mm_per_pixel) == (None, None)


def test_holds_plain_values_that_any_torch_reads_safely(saved: Path) -> None:
    value = torch.load(saved, weights_only=True)
    assert type(value["versions"]["torch"]) is str
    assert value["versions"]["torch"] == str(torch.__version__)
    assert set(value["versions"]) == {"sdi", "torch", "python"}


def test_gives_the_network_in_eval_mode(saved: Path, checkpoint: Checkpoint) -> None:
    network = load_network(load_checkpoint(saved))
    assert not network.training
    twin = build_model("minet").eval()
    twin.load_state_dict(checkpoint.weights)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(x)["s1"], twin(x)["s1"])


def test_refuses_another_models_weights(saved: Path) -> None:
    text = error_of(load_checkpoint, saved, "tsernet-xs")
    assert text == f"{saved} holds minet, not tsernet-xs; use --model minet"


def test_refuses_a_model_it_does_not_know(saved: Path) -> None:
    rewrite(saved, model="u2net")
    assert "holds 'u2net', which this sdi does not know: csepnet, csepnet-resnet50, minet" in error_of(
        load_checkpoint, saved
    )


def test_refuses_a_newer_format(saved: Path) -> None:
    rewrite(saved, format_version=2, versions={"sdi": "9.9"})
    text = error_of(load_checkpoint, saved)
    assert text == f"{saved} has checkpoint format 2, this sdi reads 1; update sdi (it was written by sdi 9.9)"


def test_refuses_one_that_lacks_a_part(saved: Path) -> None:
    value = torch.load(saved, weights_only=True)
    del value["preprocessing"], value["weights"]
    torch.save(value, saved)
    text = error_of(load_checkpoint, saved)
    assert text == f"{saved} is a damaged checkpoint: it lacks preprocessing, weights"


def test_points_a_bare_state_dict_to_the_importer(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "published.pth"
    torch.save(checkpoint.weights, path)
    text = error_of(load_checkpoint, path, "minet")
    assert f"sdi-import --model minet {path} -o ours.pt" in text


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    text = error_of(load_checkpoint, tmp_path / "none.pt", "minet")
    assert text == f"checkpoint {tmp_path / 'none.pt'} does not exist; train one: sdi-train --model minet"


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04 cut off", pickle.dumps([1, 2], protocol=2)])
def test_refuses_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    text = error_of(load_checkpoint, path)
    assert text.startswith(f"{path} is ")
    assert "\n" not in text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_refuses_a_truncated_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    assert error_of(load_checkpoint, saved).startswith(f"{saved} is not a checkpoint that can be read safely: ")


class RunsCode:
    """Pickled, it makes whoever unpickles it create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


def test_no_code_in_a_file_runs(saved: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    rewrite(saved, metrics=RunsCode(victim))
    assert "is not a checkpoint that can be read safely" in error_of(load_checkpoint, saved)
    assert not victim.exists()


def test_weights_that_do_not_fit_are_named(checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    weights["encoder.0.0.bias"] = torch.zeros(16)
    weights["heads.0.1.bias"] = torch.zeros(2)
    del weights["heads.4.1.weight"]
    assert error_of(load_network, replace(checkpoint, weights=weights)) == (
        "the weights do not fit minet: missing heads.4.1.weight; heads.0.1.bias is (2,), expected (1,); "
        "extra encoder.0.0.bias"
    )


def test_many_misfits_are_counted(checkpoint: Checkpoint) -> None:
    text = error_of(load_network, replace(checkpoint, weights={}))
    assert text.count("missing") == 8
    assert text.endswith(f"; and {len(checkpoint.weights) - 8} more")


def test_a_failing_save_leaves_the_old_file(saved: Path, checkpoint: Checkpoint) -> None:
    before = saved.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(saved, replace(checkpoint, training={"state": lambda: None}))
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_saving_where_no_folder_is_says_so(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "no" / "net.pt"
    assert error_of(save_checkpoint, path, checkpoint).startswith(f"cannot write {path}: No such file")


def test_weights_stored_in_half_are_computed_with_in_float32(saved: Path) -> None:
    value = torch.load(saved, weights_only=True)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in value["weights"].items()}
    torch.save({**value, "weights": halves}, saved)
    for name, tensor in load_checkpoint(saved).weights.items():
        assert tensor.dtype == (torch.float32 if halves[name].is_floating_point() else torch.int64)
        assert torch.equal(tensor, halves[name].to(tensor.dtype))


def test_the_shipped_tsernet_lite_knows_steel_from_its_defects() -> None:
    path = shipped_checkpoint("tsernet-lite")
    assert path is not None
    assert path.stat().st_size < 4e6
    checkpoint = load_checkpoint(path, "tsernet-lite")
    module = EngineModule(load_network(checkpoint), checkpoint.preprocessing, checkpoint.input_hw)
    for kind in (*DEFECTS, "clean"):
        image, truth = draw_strip(kind, seed=1)
        with torch.inference_mode():
            saliency = module(torch.from_numpy(image)[None])[0].numpy() >= 128
        if kind == "clean":
            assert saliency.mean() < 0.001
        else:
            assert (saliency & (truth > 0)).sum() > 0.6 * (saliency | (truth > 0)).sum()
