"""Run engines beside the line: `open_engine`, sources, sinks and the loop between them.

Loads neither torch nor onnx; OpenCV and ONNX Runtime only when something that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdi.runtime.defects import Region, find_regions
    from sdi.runtime.engine import Engine, open_engine
    from sdi.runtime.errors import DeviceError, GateError, InputError, SdiError
    from sdi.runtime.images import read_image, write_image
    from sdi.runtime.manifest import Manifest, read_manifest
    from sdi.runtime.shipped import default_engine

_HOMES = {
    "DeviceError": "errors",
    "Engine": "engine",
    "GateError": "errors",
    "InputError": "errors",
    "Manifest": "manifest",
    "Region": "defects",
    "SdiError": "errors",
    "default_engine": "shipped",
    "find_regions": "defects",
    "open_engine": "engine",
    "read_image": "images",
    "read_manifest": "manifest",
    "write_image": "images",
}

__all__ = [
    "DeviceError",
    "Engine",
    "GateError",
    "InputError",
    "Manifest",
    "Region",
    "SdiError",
    "default_engine",
    "find_regions",
    "open_engine",
    "read_image",
    "read_manifest",
    "write_image",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import sdi.runtime` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sdi.runtime' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"sdi.runtime.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
