"""Run engines beside the line: `open_engine`, sources, sinks and the loop between them.

Loads neither torch nor onnx; OpenCV and ONNX Runtime only when something that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdi.runtime.common.errors import DeviceError, GateError, InputError, SdiError
    from sdi.runtime.common.images import decode_image, read_image, write_image
    from sdi.runtime.engine.base import Engine
    from sdi.runtime.engine.manifest import Manifest, read_manifest
    from sdi.runtime.engine.open import open_engine
    from sdi.runtime.engine.shipped import default_engine
    from sdi.runtime.frame import Event, Frame, Result, Skipped
    from sdi.runtime.inspection.defects import DefectRule, find_regions
    from sdi.runtime.inspection.inspector import Inspector
    from sdi.runtime.pipeline.loop import Loop
    from sdi.runtime.region import Region
    from sdi.runtime.sinks.base import Sink
    from sdi.runtime.sources.base import Source
    from sdi.runtime.sources.open import open_source, open_sources
    from sdi.runtime.sources.settings import LiveSettings

_HOMES = {
    "DefectRule": "inspection.defects",
    "DeviceError": "common.errors",
    "Engine": "engine.base",
    "Event": "frame",
    "Frame": "frame",
    "GateError": "common.errors",
    "InputError": "common.errors",
    "Inspector": "inspection.inspector",
    "LiveSettings": "sources.settings",
    "Loop": "pipeline.loop",
    "Manifest": "engine.manifest",
    "Region": "region",
    "Result": "frame",
    "SdiError": "common.errors",
    "Sink": "sinks.base",
    "Skipped": "frame",
    "Source": "sources.base",
    "decode_image": "common.images",
    "default_engine": "engine.shipped",
    "find_regions": "inspection.defects",
    "open_engine": "engine.open",
    "open_source": "sources.open",
    "open_sources": "sources.open",
    "read_image": "common.images",
    "read_manifest": "engine.manifest",
    "write_image": "common.images",
}

__all__ = [
    "DefectRule",
    "DeviceError",
    "Engine",
    "Event",
    "Frame",
    "GateError",
    "InputError",
    "Inspector",
    "LiveSettings",
    "Loop",
    "Manifest",
    "Region",
    "Result",
    "SdiError",
    "Sink",
    "Skipped",
    "Source",
    "decode_image",
    "default_engine",
    "find_regions",
    "open_engine",
    "open_source",
    "open_sources",
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
