"""The first layer at which an engine leaves PyTorch, found by bisection.

The engine computes up to a layer, and PyTorch computes the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from sdi.export.onnx_model import PROBABILITY, FrameShape, program_from_module
from sdi.export.parity.candidates import Candidate
from sdi.export.parity.result import Divergence, Layer
from sdi.export.runners import InputSpec
from sdi.runtime.common.errors import InputError
from sdi.runtime.engine.onnx_runtime import SKIPPED_OPTIMIZERS
from sdi.train.checkpoint import Checkpoint, load_network
from sdi.train.engine_module import EngineModule
from sdi.train.models.deploy import deploy_form

__all__ = ["TracedNetwork", "first_divergence", "tensor_error"]

_NOTHING = 1e-6  # RMS of two maps' difference that float32 itself brings about
_STANDS_OUT = 0.25  # share of the difference that one layer must bring


def tensor_error(reference: np.ndarray, engine: np.ndarray) -> float:
    """Relative error of a tensor: the norm of the worst channel's difference over the channels' mean norm.

    One bad channel among many shows, and one that is silent in both does not divide by zero.

    Args:
        reference, engine: the second axis of four is the channels'; of others, all is one channel.
    """
    if reference.shape != engine.shape:
        return float("inf")
    axes = (0, 2, 3) if reference.ndim == 4 else None
    reference, engine = reference.astype(np.float64), engine.astype(np.float64)
    off = np.sqrt(np.square(engine - reference).sum(axis=axes)).max()
    norm = np.sqrt(np.square(reference).sum(axis=axes).mean())
    if not np.isfinite(off):
        return float("inf")
    return float(off / norm) if norm else float(off > 0)


def first_divergence(network: TracedNetwork, candidate: Candidate, name: str, image: np.ndarray) -> Divergence:
    """Find the layer at which an ONNX file leaves the network in PyTorch, float32.

    The engine computes up to a layer. PyTorch takes over its tensors and computes the map. The map's error then shows
    what the engine did wrong up to that layer. The layer wanted is the one at which this error reaches half of the
    whole engine's. In half and INT8 every layer rounds, so each is weighed by its effect on the map.

    Args:
        network: of the checkpoint, traced for the candidate's input.
        name, image: the picture, (H, W, 3) uint8 BGR, and what it is called.
    Raises:
        InputError: the graph's tensors are not named as this sdi and this PyTorch name them.
    """
    assert candidate.file is not None
    search = _Search(network, onnx.load(candidate.file), candidate.spec, image)
    if not search.tensors or search.misnamed():
        raise InputError(
            f"the layers of {candidate.file} have other names than this sdi gives them; export it again to look into it"
        )
    low, high = -1, len(search.tensors) - 1  # the last layer that changes little, the first that changes much
    whole = search.map_error(high)
    if whole <= _NOTHING:
        return Divergence(name, whole, len(search.tensors), search.examined())
    while high - low > 1:
        middle = (low + high) // 2
        if search.map_error(middle) >= whole / 2:
            high = middle
        else:
            low = middle
    before = search.map_error(low) if low >= 0 else 0.0
    share = min(1.0, (search.map_error(high) - before) / whole)
    inputs_error = search.inputs_error(search.tensors[high])
    found = search.layer(high)
    return Divergence(
        name,
        whole,
        len(search.tensors),
        search.examined(),
        layer=found.layer if share >= _STANDS_OUT else None,
        tensor=found.tensor,
        op=found.op,
        share=share,
        error=found.error,
        inputs_error=inputs_error,
    )


class _Search:
    """An engine's graph and the traced network beside each other, and the errors measured so far.

    Attributes:
        tensors: those that both have, in the order they are computed in.
        maps: index of a tensor -> `map_error`, of those that were asked for.
    """

    def __init__(self, network: TracedNetwork, model: onnx.ModelProto, spec: InputSpec, image: np.ndarray) -> None:
        self._model = model
        self._frame = spec.tensor(spec.frame(image)[None])
        self._frames = torch.from_numpy(np.repeat(spec.frame(image)[None], spec.batch or 1, axis=0))
        self._network = network
        self._answer, _ = network.run(self._frames)
        self._makers = {output: node for node in model.graph.node for output in node.output}
        output = PROBABILITY if PROBABILITY in self._makers else model.graph.output[0].name
        upstream = self._upstream(output)
        self.tensors = [name for name in self._network.layers if name in upstream]
        self._errors: dict[str, float] = {}
        self.maps: dict[int, float] = {}

    def map_error(self, index: int) -> float:
        """RMS of the map's difference when the engine computes up to `tensors[index]` and PyTorch the rest."""
        if index not in self.maps:
            crossing = self._network.crossing(self.tensors[: index + 1])
            given = self._from_engine({*crossing, self.tensors[index]})
            self._note_errors(given)
            answer, _ = self._network.run(self._frames, given)
            off = np.square(answer.astype(np.float64) - self._answer)
            self.maps[index] = float(np.sqrt(off.mean())) if np.isfinite(off).all() else 1.0
        return self.maps[index]

    def layer(self, index: int) -> Layer:
        """The layer that one of `tensors` comes from, with its errors; `map_error` was asked for it before."""
        tensor = self.tensors[index]
        op = self._makers[tensor].op_type
        return Layer(self._network.layers[tensor], tensor, op, self._errors[tensor], self.maps[index])

    def examined(self) -> tuple[Layer, ...]:
        """Every layer that `map_error` was asked for, in the order they are computed in."""
        return tuple(self.layer(index) for index in sorted(self.maps))

    def misnamed(self) -> bool:
        """Whether a tensor comes from weights of another layer than in the network, as another exporter counts."""
        for name in self.tensors:
            node = self._makers[name]
            if node.op_type in ("Conv", "ConvTranspose"):
                weight = node.input[1]
                while weight in self._makers:  # quantised
                    weight = self._makers[weight].input[0]
                if not weight.startswith(f"network.{self._network.layers[name]}."):
                    return True
        return False

    def inputs_error(self, tensor: str) -> float:
        """Maximum error of the nearest tensors upstream that both have; 0 where there is none."""
        stops = set(self.tensors)
        found = [name for source in self._makers[tensor].input for name in self._upstream(source, stops) & stops]
        self._note_errors(self._from_engine({name for name in found if name not in self._errors}))
        return max((self._errors[name] for name in found), default=0.0)

    def _upstream(self, tensor: str, stops: Collection[str] = ()) -> set[str]:
        """A computed tensor and all that it depends on, up to `stops`."""
        found, pending = set(), [tensor]
        while pending:
            name = pending.pop()
            if name in self._makers and name not in found:
                found.add(name)
                pending += [] if name in stops else self._makers[name].input
        return found

    def _note_errors(self, values: Mapping[str, np.ndarray]) -> None:
        wanted = [name for name in values if name not in self._errors]
        if wanted:
            _, reference = self._network.run(self._frames, wanted=wanted)
            self._errors |= {name: tensor_error(expected, values[name]) for name, expected in reference.items()}

    def _from_engine(self, tensors: Collection[str]) -> dict[str, np.ndarray]:
        """What tensors of the engine hold, float32."""
        if not tensors:
            return {}
        names = sorted(tensors)
        del self._model.graph.output[:]
        self._model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")  # it runs once
        session = onnxruntime.InferenceSession(
            self._model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(SKIPPED_OPTIMIZERS),
        )
        answers = session.run(None, {"frame": self._frame})
        return {name: np.asarray(value, np.float32) for name, value in zip(names, answers, strict=True)}


class TracedNetwork:
    """The deploy form in PyTorch, traced as the exporter does it, so that its tensors have the exporter's names.

    Attributes:
        layers: float32 tensor -> path of the module that it comes from, in the order they are computed in.

    Raises:
        SdiError: PyTorch's exporter failed.
    """

    def __init__(self, checkpoint: Checkpoint, spec: InputSpec) -> None:
        network, dynamic = deploy_form(load_network(checkpoint)), spec.frame_hw is None
        resizes = True if dynamic else None
        module = EngineModule(network, checkpoint.preprocessing, checkpoint.input_hw, raw=True, resizes=resizes)
        frame_hw = spec.frame_hw or checkpoint.input_hw
        shape = FrameShape(*frame_hw, batch=spec.batch or 1, dynamic=dynamic, free_batch=spec.batch is None)
        exported = program_from_module(module, shape).exported_program
        assert exported is not None
        self._module = exported.module()
        nodes = list(exported.graph.nodes)
        self._map = nodes[-1].args[0][0].name  # the exporter gave it a name of its own
        self.layers = {
            self._name(node): _module_path(node) for node in nodes if node.op == "call_function" and _is_float32(node)
        }
        self._users = {self._name(node): {self._name(user) for user in node.users} for node in nodes}

    def crossing(self, tensors: Collection[str]) -> list[str]:
        """Those of `tensors` that something else needs."""
        inside = set(tensors)
        return [name for name in tensors if not self._users[name] <= inside]

    def run(
        self, frames: torch.Tensor, given: Mapping[str, np.ndarray] | None = None, wanted: Collection[str] = ()
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The map, (N, H, W) float32, and what tensors hold, float32.

        Args:
            frames: (N, H, W, 3) uint8 BGR.
            given: tensors that hold these values instead of their own.
            wanted: tensors to answer.
        """
        replaced = given or {}
        caught: dict[str, np.ndarray] = {}
        name = self._name

        class Interpreter(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                if (tensor := name(n)) in replaced:
                    return torch.from_numpy(replaced[tensor])
                value = super().run_node(n)
                if tensor in wanted:
                    caught[tensor] = value.float().numpy()
                return value

        with torch.inference_mode():
            answer = Interpreter(self._module).run(frames)
        return (answer[0] if isinstance(answer, tuple | list) else answer).numpy(), caught

    def _name(self, node: torch.fx.Node) -> str:
        return PROBABILITY if node.name == self._map else node.name


def _is_float32(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _module_path(node: torch.fx.Node) -> str:
    """As the checkpoint names its weights, `encoder.3.2`; `engine` where it belongs to no module of the network."""
    stack = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())
    return stack[-1][0].removeprefix("network.") or "engine"
