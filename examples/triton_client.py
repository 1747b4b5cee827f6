"""A client of Triton Inference Server, which serves an engine of sdi as it is: preprocessing is inside the graph.

On the server, `models/minet/1/model.onnx` (a copy of minet-fp32.onnx; of a plan: model.plan and backend "tensorrt") and
`models/minet/config.pbtxt`:

    backend: "onnxruntime"
    max_batch_size: 0
    input [{ name: "frame", data_type: TYPE_UINT8, dims: [1, 256, 256, 3] }]
    output [{ name: "saliency", data_type: TYPE_UINT8, dims: [1, 256, 256] }]

Here:

    pip install 'tritonclient[http]'
    python examples/triton_client.py localhost:8000 minet picture.png map.png

The tests have no Triton: they compile this program and look up what it imports of sdi.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from sdi.runtime import InputError, read_image, write_image
from sdi.runtime.common.images import resize_image


def saliency_of(client: triton.InferenceServerClient, model: str, frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (H, W) uint8, probability x 255, as `Engine.__call__` answers.

    Raises:
        InputError: the model on the server does not keep the I/O contract of sdi.
    """
    described = client.get_model_metadata(model)
    inputs = {item["name"]: item for item in described["inputs"]}
    if set(inputs) != {"frame"} or inputs["frame"]["datatype"] != "UINT8":
        raise InputError(f"model {model} takes {inputs}; expected frame UINT8 [N, H, W, 3]: export it with sdi-export")
    _, height, width, _ = (int(size) for size in inputs["frame"]["shape"])
    size_hw = (frame.shape[0], frame.shape[1])
    fitted = resize_image(frame, (height, width) if height > 0 else size_hw)[None]  # -1: any size
    sent = triton.InferInput("frame", list(fitted.shape), "UINT8")
    sent.set_data_from_numpy(np.ascontiguousarray(fitted))
    answer = client.infer(model, [sent], outputs=[triton.InferRequestedOutput("saliency")])
    return resize_image(answer.as_numpy("saliency")[0], size_hw)


def main() -> None:
    address, model, picture, target = sys.argv[1:]
    with triton.InferenceServerClient(address) as client:
        write_image(Path(target), saliency_of(client, model, read_image(Path(picture))))


if __name__ == "__main__":
    main()
