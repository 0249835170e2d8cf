"""Cameras, rays, trajectories and controls (paper 3.2). The ray functions need torch, which is imported on their first use."""

from typing import TYPE_CHECKING, Any

from moworld.camera.cameras import Cameras, cover_crop, translation_scale
from moworld.camera.controls import controls_from_c2w, controls_to_c2w, parse_controls
from moworld.camera.formats import read_cameras, write_cameras

if TYPE_CHECKING:
    from moworld.camera.rays import group_rays, pluecker_rays

__all__ = [
    "Cameras",
    "controls_from_c2w",
    "controls_to_c2w",
    "cover_crop",
    "group_rays",
    "parse_controls",
    "pluecker_rays",
    "read_cameras",
    "translation_scale",
    "write_cameras",
]


def __getattr__(name: str) -> Any:
    if name in ("pluecker_rays", "group_rays"):
        from moworld.camera import rays

        return getattr(rays, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
