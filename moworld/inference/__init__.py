"""Real-time inference (paper 5): sessions, streaming decode, quantization. Names are imported on first use: Diffusers takes seconds."""

from importlib import import_module
from typing import Any

__all__ = ["WorldEnvironment", "WorldSession"]
_MODULES = {"WorldEnvironment": "environment", "WorldSession": "session"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
