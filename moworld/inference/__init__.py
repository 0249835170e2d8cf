"""Real-time inference (paper 5): sessions, streaming decode, quantization."""

from typing import Any

__all__ = ["WorldSession"]


def __getattr__(name: str) -> Any:
    """Import on first use: a session needs Diffusers, which takes seconds."""
    if name == "WorldSession":
        from moworld.inference.session import WorldSession

        return WorldSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
