"""Cameras, rays, trajectories and controls (paper 3.2). Only `rays` imports torch."""

from moworld.camera.cameras import Cameras, cover_crop, translation_scale
from moworld.camera.controls import controls_to_c2w, parse_controls
from moworld.camera.formats import CameraFile, read_camera_file, read_cameras, write_cameras

__all__ = [
    "CameraFile",
    "Cameras",
    "controls_to_c2w",
    "cover_crop",
    "parse_controls",
    "read_camera_file",
    "read_cameras",
    "translation_scale",
    "write_cameras",
]
