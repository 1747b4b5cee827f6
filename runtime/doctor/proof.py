"""Runs a tiny convolution in one provider of ONNX Runtime: `python -m sdi.runtime.doctor.proof NAME`.

The package lists the providers that it was compiled with. Only a run shows whether their libraries and a device are
there.
"""

from __future__ import annotations

import base64
import sys

__all__ = ["PROOF_MODEL", "main"]

# An ONNX file of one node, a 3x3 convolution of ones over (1, 1, 4, 4) float32 with a border of zeros.
PROOF_MODEL = base64.b64decode(
    "CAgSA3NkaTqWAQoiCgF4CgF3EgF5IgRDb252KhEKBHBhZHNAAUABQAFAAaABBxIBZyozCAEIAQgDCAMQASIkAACAPwAAgD8AAIA/AACAPwAA"
    "gD8AAIA/AACAPwAAgD8AAIA/QgF3WhsKAXgSFgoUCAESEAoCCAEKAggBCgIIBAoCCARiGwoBeRIWChQIARIQCgIIAQoCCAEKAggECgIIBEIE"
    "CgAQDQ=="
)
_EDGE = (4.0, 6.0, 6.0, 4.0)
_INSIDE = (6.0, 9.0, 9.0, 6.0)


def main(provider: str) -> None:
    """Leave with a text on stderr and 1 where the provider does not start or answers wrong."""
    import numpy as np
    import onnxruntime

    from sdi.runtime.engine.onnx_runtime import load_cuda_libraries

    options = onnxruntime.SessionOptions()
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        load_cuda_libraries(onnxruntime)
    session = onnxruntime.InferenceSession(PROOF_MODEL, options, providers=[provider])
    if session.get_providers()[0] != provider:
        sys.exit(f"Error: {provider} did not start")
    answer = np.asarray(session.run(["y"], {"x": np.ones((1, 1, 4, 4), np.float32)})[0])
    if not np.allclose(answer[0, 0], [_EDGE, _INSIDE, _INSIDE, _EDGE], atol=0.01):
        sys.exit(f"Error: {provider} answers {answer.ravel().tolist()} to a convolution of ones")


if __name__ == "__main__":
    main(sys.argv[1])
