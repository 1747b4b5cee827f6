from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdi.runtime.common.errors import InputError
from sdi.train.authors import checkpoint_from_authors, read_state_dict, weights_from_authors
from sdi.train.checkpoint import load_checkpoint, load_network, save_checkpoint
from sdi.train.data import find_pairs, load_samples
from sdi.train.engine_module import EngineModule
from sdi.train.import_cli import main
from sdi.train.models import SaliencyNetwork, build_model
from sdi.train.models.deploy import deploy_form
from sdi.train.preprocess import GRAY_STEEL, IMAGENET
from sdi.train.scores import predict, score_maps

Shapes = dict[str, tuple[int, ...]]


def minet_shapes() -> Shapes:
    """Names and shapes in the state dict of the program that MINet's authors published."""
    shapes: Shapes = {}

    def convolution_and_norm(module: str, *weight: int) -> None:
        shapes[f"{module}.conv.0.weight"] = weight
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{module}.conv.1.{part}"] = weight[:1]
        shapes[f"{module}.conv.1.num_batches_tracked"] = ()

    def depthwise_block(module: str, before: int, after: int) -> None:
        convolution_and_norm(f"{module}.conv.0", before, 1, 3, 3)
        convolution_and_norm(f"{module}.conv.1", after, before, 1, 1)

    channels = [16, 32, 64, 96, 128]
    convolution_and_norm("encoder1", 16, 3, 3, 3)
    for i, modules in enumerate([3, 4, 6, 3], start=1):
        c = channels[i]
        depthwise_block(f"encoder{i + 1}.0", channels[i - 1], c)
        for module in (f"encoder{i + 1}.{n}" for n in range(1, modules + 1)):
            for k in range(4):
                convolution_and_norm(f"{module}.Dconv.{k}", c, 1, 3, 3)
            for channel in range(c):
                convolution_and_norm(f"{module}.Pconv.{channel}", 1, 4, 1, 1)
            convolution_and_norm(f"{module}.Pfusion", c, c, 1, 1)
    for i, (wide, narrow) in enumerate(zip(channels, [16, *channels[:4]], strict=True), start=1):
        depthwise_block(f"decoder{i}.0", wide, wide)
        depthwise_block(f"decoder{i}.1", wide, narrow)
        shapes |= {f"conv_out{i}.conv.1.weight": (1, narrow, 1, 1), f"conv_out{i}.conv.1.bias": (1,)}
    return shapes


def published_shapes(reference: Path, name: str) -> Shapes:
    lines = (reference / f"{name}.keys.tsv").read_text().splitlines()
    pairs = (line.split("\t") for line in lines)
    return {key: () if text == "scalar" else tuple(map(int, text.split("x"))) for key, text in pairs}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """The weights that the authors' answers were computed with: a rule instead of 900 MB."""
    return {key: torch.from_numpy(drawn(key, shape)) for key, shape in shapes.items()}


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng, part = np.random.default_rng(zlib.crc32(key.encode())), key.rpartition(".")[2]
    if part == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if part == "running_var" or (part == "weight" and len(shape) == 1):
        value = rng.uniform(0.5, 1.5, shape)
    elif part == "weight":
        value = rng.normal(0, np.sqrt(1 / prod(shape[1:])), shape)
    else:
        value = rng.normal(0, 0.1, shape)
    return value.astype(np.float32)


def hollow(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict as MINet's authors published it, with drawn weights."""
    return filled(minet_shapes())


def is_dead(key: str) -> bool:
    """Weights that TSERNet's published program holds and never uses."""
    return ".convs1." in key or ".convs2." in key


def error_of(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def filled_network(reference: Path, name: str, published: str) -> SaliencyNetwork:
    """The network with the drawn weights, read by the authors' names."""
    shapes = {key: shape for key, shape in published_shapes(reference, published).items() if not is_dead(key)}
    with torch.device("meta"):  # nothing to draw: every weight comes from the authors' names
        network = build_model(name)
    network.load_state_dict(weights_from_authors(filled(shapes), name), assign=True)
    return network.eval()


@pytest.mark.parametrize("name", ["minet", pytest.param("tsernet", marks=pytest.mark.slow)])
def test_every_map_is_what_the_authors_network_answers(reference: Path, name: str) -> None:
    network = filled_network(reference, name, name)
    with np.load(reference / f"{name}.io.npz") as answers, torch.inference_mode():
        x = torch.from_numpy(answers["input"])
        maps = network.maps(x, every=True)
        assert set(maps) == set(answers.files) - {"input"}
        for key, p in maps.items():
            np.testing.assert_allclose(p.numpy(), answers[key], rtol=0, atol=1e-5, err_msg=key)
        primary = deploy_form(network)(x)[network.primary]
        np.testing.assert_allclose(primary.numpy(), answers[network.primary], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "published"), [("csepnet", "csepnet_vgg16"), ("csepnet-resnet50", "csepnet_resnet50")]
)
def test_csepnets_logits_are_what_the_authors_network_answers(reference: Path, name: str, published: str) -> None:
    """Theirs ends before the sigmoid, which would hide a part of any difference."""
    network = filled_network(reference, name, published)
    with np.load(reference / f"{published}.io.npz") as answers, torch.inference_mode():
        x = torch.from_numpy(answers["input"])
        logits, maps = network.logits(x, every=True), network.maps(x, every=True)
        assert set(logits) == set(maps) == set(answers.files) - {"input"}
        for key in maps:
            wanted = torch.from_numpy(answers[key])
            torch.testing.assert_close(logits[key], wanted, rtol=0, atol=1e-5, msg=key)
            torch.testing.assert_close(maps[key], wanted.sigmoid(), rtol=0, atol=1e-5, msg=key)
        primary = deploy_form(network)(x)["s1"]
        torch.testing.assert_close(primary, torch.from_numpy(answers["s1"]).sigmoid(), rtol=0, atol=1e-5)


def test_the_names_used_here_are_the_published_ones(reference: Path) -> None:
    assert minet_shapes() == published_shapes(reference, "minet")


def test_separate_convolutions_are_packed_in_their_order(published: dict[str, Tensor]) -> None:
    weights = weights_from_authors(published, "minet")
    assert list(weights) == list(build_model("minet").state_dict())
    theirs, ours = "encoder3.2.Pconv.{}.conv.{}", "encoder.2.2.mix"
    for c in (0, 9, 10, 63):  # 10 comes after 9, not after 1
        assert torch.equal(weights[f"{ours}.weight"][c], published[theirs.format(c, "0.weight")].flatten())
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert weights[f"{ours}.bn.{part}"][c] == published[theirs.format(c, f"1.{part}")]
    assert weights[f"{ours}.bn.num_batches_tracked"].shape == ()


def test_tsernets_dead_weights_and_no_others_are_skipped(reference: Path) -> None:
    shapes = published_shapes(reference, "tsernet")
    weights = weights_from_authors(hollow(shapes), "tsernet")
    with torch.device("meta"):
        own = build_model("tsernet").state_dict()
    assert {key: tensor.shape for key, tensor in weights.items()} == {key: t.shape for key, t in own.items()}
    dead = [key for key in shapes if is_dead(key)]
    assert len(dead) == 6 * 2 * 7
    living = {key: shape for key, shape in shapes.items() if key not in dead}
    assert weights_from_authors(hollow(living), "tsernet").keys() == weights.keys()
    strays = ["EFBI7.convs1.0.weight", "EFBI1.convs6.0.weight", "convs1.0.weight"]
    text = error_of(weights_from_authors, hollow({**shapes, **dict.fromkeys(strays, (1,))}), "tsernet")
    named = "; ".join(f"extra {stray}" for stray in strays)
    assert text == f"the file is not the published checkpoint of tsernet: {named}"


def test_missing_extra_and_misshapen_keys_are_named(published: dict[str, Tensor]) -> None:
    changed = dict(published)
    del changed["encoder4.6.Pconv.95.conv.1.running_var"]
    changed["conv_out5.conv.1.bias"] = torch.zeros(2)
    changed["encoder1.conv.1.num_batches_tracked"] = torch.zeros(1)
    changed["decoder6.weight"] = torch.zeros(1)
    assert error_of(weights_from_authors, changed, "minet", "net.pth") == (
        "net.pth is not the published checkpoint of minet: "
        "encoder1.conv.1.num_batches_tracked is 1, expected a scalar; "
        "missing encoder4.6.Pconv.95.conv.1.running_var; "
        "conv_out5.conv.1.bias is 2, expected 1; "
        "extra decoder6.weight"
    )


def test_a_handful_of_keys_is_named_and_the_rest_counted(published: dict[str, Tensor]) -> None:
    text = error_of(weights_from_authors, {}, "minet")
    assert text.count("missing") == 8
    assert text.endswith(f"; and {len(published) - 8} more")


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_prefixes_and_wrappers_of_training_programs_are_taken_off(
    tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    weights = {"encoder1.conv.0.weight": torch.randn(2, 3), "module.bias": torch.randn(4)}
    value: dict[str, object] = {prefix + key: tensor for key, tensor in weights.items()}
    torch.save({wrapper: value, "epoch": 7} if wrapper else value, tmp_path / "net.pth")
    back = read_state_dict(tmp_path / "net.pth")
    assert list(back) == list(weights)  # one prefix goes, and only where every key has it
    assert all(torch.equal(back[key], tensor) for key, tensor in weights.items())


class RunsCode:
    """Pickled, it makes whoever unpickles it create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


def test_no_code_in_a_file_runs(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "trap": RunsCode(tmp_path / "victim")}, tmp_path / "net.pth")
    text = error_of(read_state_dict, tmp_path / "net.pth")
    assert text.startswith(f"{tmp_path / 'net.pth'} is not a checkpoint that can be read safely: ")
    assert "weights_only" not in text  # no advice to switch the safety off
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("value", [[torch.zeros(1)], {}, {"epoch": 3}, torch.zeros(2), {"model": {"a": 1}}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "net.pth")
    assert "holds no state dict" in error_of(read_state_dict, tmp_path / "net.pth")


def test_missing_files_and_garbage_are_refused(tmp_path: Path) -> None:
    assert error_of(read_state_dict, tmp_path / "x.pth") == f"checkpoint {tmp_path / 'x.pth'} does not exist"
    (tmp_path / "x.pth").write_bytes(b"<html>not found</html>")
    assert "is not a checkpoint that can be read safely" in error_of(read_state_dict, tmp_path / "x.pth")


def test_models_that_nobody_published_are_refused(tmp_path: Path) -> None:
    text = error_of(checkpoint_from_authors, tmp_path / "x.pth", "tsernet-xs")
    assert (
        text
        == "nobody published a checkpoint of tsernet-xs; can be imported: csepnet, csepnet-resnet50, minet, tsernet"
    )
    assert "unknown model 'u2net'; known: csepnet" in error_of(checkpoint_from_authors, tmp_path / "x.pth", "u2net")


@pytest.mark.parametrize(
    ("name", "published", "divide_by_max"),
    [
        ("csepnet", "csepnet_vgg16", False),
        ("csepnet-resnet50", "csepnet_resnet50", False),
        ("tsernet", "tsernet", True),
    ],
)
def test_preprocessing_is_the_published_programs(
    tmp_path: Path, reference: Path, name: str, published: str, divide_by_max: bool
) -> None:
    torch.save(hollow(published_shapes(reference, published)), tmp_path / "net.pth")
    checkpoint = checkpoint_from_authors(tmp_path / "net.pth", name)
    assert checkpoint.input_hw == (256, 256)
    assert checkpoint.preprocessing == replace(IMAGENET, divide_by_max=divide_by_max)


def test_one_backbones_checkpoint_is_not_the_others(reference: Path) -> None:
    text = error_of(weights_from_authors, hollow(published_shapes(reference, "csepnet_resnet50")), "csepnet", "net.pth")
    assert text.startswith("net.pth is not the published checkpoint of csepnet: missing encoder1.0.weight; ")


@pytest.mark.slow
def test_the_published_minet_scores_as_its_authors_say(reference: Path, steel_data: Path) -> None:
    checkpoint = checkpoint_from_authors(reference / "minet_published.pth", "minet")
    network = deploy_form(load_network(checkpoint))
    samples = load_samples(find_pairs(steel_data, "test"))
    maps = predict(EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw), samples, batch_size=4)
    scores = score_maps((p, sample.mask) for p, sample in zip(maps, samples, strict=True))
    # The published figures were taken with another way of resizing, hence the last digit.
    assert scores["S"] == pytest.approx(0.8660, abs=5e-4)
    assert scores["maxF"] == pytest.approx(0.8564, abs=5e-4)
    assert scores["MAE"] == pytest.approx(0.0268, abs=2e-4)


def test_command_writes_a_checkpoint_of_ours(
    tmp_path: Path, published: dict[str, Tensor], run_command: Callable[..., tuple[int, str, str]]
) -> None:
    source, target = tmp_path / "MINet.pth", tmp_path / "ours.pt"
    torch.save(published, source)
    code, out, err = run_command(main, "--model", "minet", source, "-o", target)
    assert (code, out) == (0, f"{target}\n")
    assert "minet from MINet.pth" in err
    checkpoint = load_checkpoint(target, "minet")
    assert checkpoint.input_hw == (368, 368)
    assert checkpoint.preprocessing == replace(GRAY_STEEL, divide_by_max=True)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert checkpoint.training == {"imported_from": "MINet.pth", "sha256": digest}
    wanted = weights_from_authors(published, "minet")
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in wanted.items())
    assert not load_network(checkpoint).training


def test_command_replaces_a_file_only_when_told_to(
    tmp_path: Path, published: dict[str, Tensor], run_command: Callable[..., tuple[int, str, str]]
) -> None:
    source, target = tmp_path / "MINet.pth", tmp_path / "ours.pt"
    torch.save(published, source)
    target.write_text("precious")
    code, out, err = run_command(main, "--model", "minet", source, "-o", target)
    assert (code, out) == (2, "")
    assert err == f"error: {target} exists already; choose another -o, or replace it with --overwrite\n"
    assert target.read_text() == "precious"
    assert run_command(main, "--model", "minet", source, "-o", target, "--overwrite")[0] == 0
    assert load_checkpoint(target).model == "minet"
    code, _, err = run_command(main, "--model", "minet", source, "-o", source, "--overwrite")
    assert code == 2
    assert "is the published file itself" in err
    assert read_state_dict(source).keys() == published.keys()


def test_command_refuses_a_checkpoint_that_is_ours_already(
    tmp_path: Path, published: dict[str, Tensor], run_command: Callable[..., tuple[int, str, str]]
) -> None:
    torch.save(published, tmp_path / "MINet.pth")
    save_checkpoint(tmp_path / "ours.pt", checkpoint_from_authors(tmp_path / "MINet.pth", "minet"))
    code, out, err = run_command(main, "--model", "minet", tmp_path / "ours.pt", "-o", tmp_path / "again.pt")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "already a checkpoint of sdi" in err
    assert not (tmp_path / "again.pt").exists()
