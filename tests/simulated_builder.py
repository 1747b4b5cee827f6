"""The builder of the simulated TensorRT: its plans hold the ONNX file, which ONNX Runtime executes.

The CPU's answers are the right ones, so self-tests, parity and `tests/gpu` can be gone through without a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx

from gpu_simulator import SimulatedGpu
from simulated_tensorrt import Element, plan_bytes

__all__ = ["add_builder"]


def add_builder(trt: Any, gpu: SimulatedGpu, *, rtx: bool = False) -> Any:
    """Give a simulated library what `sdi-export` needs; answers the library."""
    magic = b"vtrt" if rtx else b"ftrt"

    class BuilderFlag:
        TF32, REFIT = "TF32", "REFIT"

    if rtx:
        BuilderFlag.REQUIRE_USER_ALLOCATION = "REQUIRE_USER_ALLOCATION"  # type: ignore[attr-defined]

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class OnnxParserFlag:
        pass

    class Network:
        def __init__(self) -> None:
            self.name, self.model, self.num_layers = "", onnx.ModelProto(), 0
            self.num_inputs = self.num_outputs = 1

        def load(self, path: str) -> None:
            self.model = onnx.load(path)
            self.num_layers = len(self.model.graph.node)

        def get_input(self, number: int) -> Any:
            return _tensor(trt, self.model.graph.input[number])

        def get_output(self, number: int) -> Any:
            return _tensor(trt, self.model.graph.output[number])

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Network, logger: Any) -> None:
            self._network = network

        def parse_from_file(self, path: str) -> bool:
            self._network.load(path)
            return True

    class Profile:
        shapes: tuple[Any, Any, Any] | None = None

        def set_shape(self, name: str, low: Any, opt: Any, high: Any) -> None:
            self.shapes = (low, opt, high)

    class Memory(bytes):
        def serialize(self) -> bytes:
            return bytes(self)

    class Config:
        def __init__(self) -> None:
            self.flags: set[str] = {BuilderFlag.TF32}
            self.profile: Profile | None = None
            self.cache = Memory(b"timings")

        def set_flag(self, flag: str) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: str) -> None:
            self.flags.discard(flag)

        def get_flag(self, flag: str) -> bool:
            return flag in self.flags

        def create_timing_cache(self, data: bytes) -> Memory:
            return Memory(data or b"timings")

        def set_timing_cache(self, cache: Memory, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return True

        def get_timing_cache(self) -> Memory:
            return self.cache

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profile = profile
            return 0

    class Builder:
        num_DLA_cores = 0

        def __init__(self, logger: Any) -> None:
            if not gpu.enter("Builder"):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int) -> Network:
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes:
            planar = network.get_input(0).dtype == trt.float32
            sizes = []
            for shape in (config.profile.shapes[0], config.profile.shapes[2]) if config.profile else ():  # type: ignore[index]
                sizes.append((shape[0], *(shape[2:] if planar else shape[1:3])))
            if not sizes:
                shape = network.get_input(0).shape
                sizes = [(shape[0], *(shape[2:] if planar else shape[1:3]))] * 2
            least, greatest = sizes
            model = network.model.SerializeToString()
            return plan_bytes(magic, trt.__version__, least, greatest, planar=planar, name=network.name, model=model)

    class ComputeCapability:
        SM80, SM86, SM89, SM120 = range(4)
        __members__ = {"SM80": 0, "SM86": 1, "SM89": 2, "SM120": 3}  # noqa: RUF012

    for thing in (BuilderFlag, NetworkDefinitionCreationFlag, OnnxParser, OnnxParserFlag, Builder, ComputeCapability):
        setattr(trt, thing.__name__, thing)
    return trt


def _tensor(trt: Any, info: Any) -> Any:
    tensor = info.type.tensor_type
    kinds: dict[int, Element] = {onnx.TensorProto.FLOAT: trt.float32, onnx.TensorProto.UINT8: trt.uint8}
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return SimpleNamespace(name=info.name, dtype=kinds[tensor.elem_type], shape=shape)
