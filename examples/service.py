"""An engine behind HTTP, with FastAPI.

    pip install fastapi uvicorn
    SDI_ENGINE=minet uvicorn --app-dir examples service:app
    curl --data-binary @picture.png http://127.0.0.1:8000/defects
    curl --data-binary @picture.png http://127.0.0.1:8000/saliency -o map.png

Requests run on several threads. An engine lets one of them in at a time and the others wait, so sharing it is safe.
For a camera take `sdi-run`: it drops stale frames, and this does not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from sdi.runtime import DeviceError, Engine, InputError, decode_image, default_engine, find_regions, open_engine

_LARGEST = 50_000_000  # bytes of a picture


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    with open_engine(os.environ.get("SDI_ENGINE") or default_engine()) as engine:
        engine.self_test()
        app.state.engine = engine
        yield


app = FastAPI(title="Defects on strip steel", lifespan=_lifespan)


@app.exception_handler(InputError)
def _refused(request: Request, error: InputError) -> Response:
    return PlainTextResponse(str(error), status_code=422)


@app.exception_handler(DeviceError)
def _failed(request: Request, error: DeviceError) -> Response:
    return PlainTextResponse(str(error), status_code=503)


@app.post("/defects")
async def defects(request: Request, threshold: float = 0.5, min_area: int = 16) -> list[dict[str, Any]]:
    """The defects of a picture (BMP, PNG, JPEG or TIFF), largest first; docs/line.md describes their fields."""
    saliency = await _saliency(request)
    return [region.to_dict() for region in find_regions(saliency, threshold, min_area)]


@app.post("/saliency")
async def saliency(request: Request) -> Response:
    """The saliency map of a picture: PNG, 8-bit gray, probability x 255, of the picture's size."""
    _, png = cv2.imencode(".png", await _saliency(request))
    return Response(png.tobytes(), media_type="image/png")


async def _saliency(request: Request) -> np.ndarray:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _LARGEST:
            raise HTTPException(413, f"a picture may have {_LARGEST} bytes")
    engine: Engine = request.app.state.engine
    return await run_in_threadpool(lambda: engine(decode_image(bytes(data), "of the request")))
