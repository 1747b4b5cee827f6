"""The state of a GPU under load: its clock, and what keeps the clock below its maximum."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdi.runtime.doctor.look import answer_of, text_of
from sdi.runtime.doctor.machine import devfreq_clock, power_mode_of
from sdi.runtime.doctor.probes import Clock

__all__ = ["GpuState", "jetson_state", "read_gpu_state", "smi_state", "throttling"]

# Bits of NVML's clocks event reasons, those that mean slower than asked for (nvml.h).
_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
_FIELDS = "name,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,{}.active"
_REASON_FIELDS = ("clocks_event_reasons", "clocks_throttle_reasons")  # since driver 535, and before
# A Jetson's counters of power events, /sys/class/hwmon/hwmon*/oc1_event_cnt and so on.
_POWER_EVENTS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "over-current"}
_FULL = 0.95  # from this share of its maximum on, the clock counts as full


@dataclass(frozen=True)
class GpuState:
    """The state of a GPU under load at one moment. None: it does not report this."""

    name: str
    clock: Clock | None = None
    held_by: tuple[str, ...] = ()  # what keeps the clock down at this moment
    events: Mapping[str, int] = field(default_factory=dict)  # power events since the start of the machine
    temperature_c: float | None = None
    power_w: float | None = None
    power_mode: str | None = None  # of a Jetson, "MAXN"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "clock_mhz": self.clock.now_mhz if self.clock else None,
            "greatest_clock_mhz": self.clock.max_mhz if self.clock else None,
            "held_by": list(self.held_by),
            "power_events": dict(self.events),
            "temperature_c": self.temperature_c,
            "power_w": self.power_w,
            "power_mode": self.power_mode,
        }


def read_gpu_state() -> GpuState | None:
    """The state of the first GPU in CUDA_VISIBLE_DEVICES, else of the first one; None where it cannot be read."""
    model = text_of(Path("/proc/device-tree/model")).rstrip("\0\n")
    if "NVIDIA" in model:
        return jetson_state(Path("/sys"), model, power_mode_of(answer_of("nvpmodel", "-q") or ""))
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    for reasons in _REASON_FIELDS:
        query = (f"--id={which}", f"--query-gpu={_FIELDS.format(reasons)}", "--format=csv,noheader,nounits")
        if (answer := answer_of("nvidia-smi", *query)) is not None:
            return smi_state(answer)
    return None


def smi_state(answer: str) -> GpuState | None:
    """The state in nvidia-smi's answer "NVIDIA RTX A2000, 1980, 2100, 71, 69.51, 0x0000000000000004"."""
    fields = [part.strip() for part in (answer.strip().splitlines() or [""])[0].split(",")]
    if len(fields) != 6:
        return None
    name, now, most, temperature, power, reasons = fields
    bits = int(reasons, 16) if re.fullmatch(r"0[xX][0-9a-fA-F]+", reasons) else 0
    return GpuState(
        name,
        Clock(int(now), int(most)) if now.isdecimal() and most.isdecimal() else None,
        tuple(what for bit, what in _REASONS.items() if bits & bit),
        temperature_c=_number(temperature),
        power_w=_number(power),
    )


def jetson_state(sys: Path, model: str, power_mode: str | None) -> GpuState:
    """The state of a Jetson's GPU.

    Args:
        sys: /sys.
    """
    events: dict[str, int] = {}
    for path in sorted(sys.glob("class/hwmon/hwmon*/oc?_event_cnt")):
        if (count := text_of(path).strip()).isdecimal():
            name = path.name.partition("_")[0]
            events[_POWER_EVENTS.get(name, name)] = int(count)
    held_by = []
    for device in sorted(sys.glob("class/thermal/cooling_device*")):
        kind = text_of(device / "type").strip()
        if kind.endswith("-alert") and text_of(device / "cur_state").strip() not in ("", "0"):
            held_by.append(f"heat ({kind})")
    clock = devfreq_clock(sys / "class/devfreq")
    return GpuState(model, clock, tuple(held_by), events, power_mode=power_mode)


def throttling(before: GpuState | None, after: GpuState | None) -> list[str]:
    """What slowed the GPU during a measurement, from its states under load before and after; empty: nothing."""
    looks = [look for look in (before, after) if look is not None]
    found = list(dict.fromkeys(reason for look in looks for reason in look.held_by))
    if before is not None and after is not None:
        found += [what for what, count in after.events.items() if count > before.events.get(what, count)]
    clocks = [look.clock for look in looks if look.clock is not None]
    lowest = min(clocks, key=lambda clock: clock.now_mhz, default=None)
    if lowest is not None and lowest.now_mhz < _FULL * lowest.max_mhz:
        found.append(f"clock {lowest.now_mhz} of {lowest.max_mhz} MHz")
    return found


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
