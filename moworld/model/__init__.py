"""Transformer, camera adapter, experts, codec, text encoder, history and rollout (paper 3, 4.2, eq. 13)."""

from typing import Any

_HOMES = {
    "MoWorldTransformer3DModel": "moworld.model.transformer",
    "WorldModel": "moworld.model.world",
    "select_history": "moworld.model.history",
    "Rollout": "moworld.model.rollout",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use: Diffusers takes seconds, and most of the library needs none of it."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
