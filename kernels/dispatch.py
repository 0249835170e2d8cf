"""Which implementation of an operator runs, and why. The choice is explained on request; nothing falls back in silence."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Operator = Callable[..., object]


@dataclass(frozen=True)
class Implementation:
    """One implementation: its name, the device types it serves, and a probe that says why it cannot run ("" when it can)."""

    name: str
    devices: tuple[str, ...]
    why_not: Callable[[], str]
    load: Callable[[], Operator]


@dataclass(frozen=True)
class Choice:
    """What was taken for a device, and what was refused with its reason."""

    name: str
    operator: Operator
    refused: dict[str, str]


def choose(table: tuple[Implementation, ...], device: str, wanted: str | None = None) -> Choice:
    """The first implementation of the table that serves the device and can run, or the one asked for by name.

    Raises ValueError when the one asked for is unknown or cannot run, or none can.
    """
    refused: dict[str, str] = {}
    for entry in table:
        if wanted is not None and entry.name != wanted:
            continue
        reason = f"serves {', '.join(entry.devices)}" if device not in entry.devices else entry.why_not()
        if not reason:
            return Choice(entry.name, entry.load(), refused)
        refused[entry.name] = reason
    known = ", ".join(entry.name for entry in table)
    raise ValueError(f"no implementation for {device}{f' named {wanted}' if wanted else ''} of {known}: {refused or 'unknown name'}")


@cache
def has_vnni() -> bool:
    """Whether this CPU multiplies int8 in hardware (AVX512-VNNI or AVX-VNNI), as Linux tells it."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(flag in info.read_text() for flag in ("avx512_vnni", "avx_vnni"))
