"""Real-time inference (paper 5): sessions, streaming decode, quantization."""

from typing import Any

__all__ = ["WorldEnvironment", "WorldSession"]


def __getattr__(name: str) -> Any:
    """Import on first use: a session needs Diffusers, which takes seconds."""
    if name == "WorldSession":
        from moworld.inference.session import WorldSession

        return WorldSession
    if name == "WorldEnvironment":
        from moworld.inference.environment import WorldEnvironment

        return WorldEnvironment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
