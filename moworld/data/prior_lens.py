"""A fixed lens for reconstructions whose pictures do not determine it: the motion is kept if it hardly depends on the lens.

Slides and walks without turns fit many focal lengths equally. Left free, the focal length takes an arbitrary value there; fixed at a
typical one, it is at worst as wrong as such lenses differ.
"""

import copy
from typing import Any

import numpy as np
import pycolmap

from moworld.camera.se3 import centre_error_rms
from moworld.data.agreement import poses_of, registered

SURE = 0.01  # standard error of a focal length that the pictures determine
PRIOR_ERROR = 0.3  # standard deviation of the logarithm of focal lengths in use, from action cameras to short telephoto lenses
STRETCH = 1.25  # factor by which the lens is changed to see whether the motion depends on it


def combined(measured: float, error: float, prior: float) -> tuple[float, float]:
    """Returns the focal length of a measured and a prior one, weighted by their precision, and its relative standard error.

    measured, prior: focal lengths in the same unit; error: relative standard error of the measured one
    """
    own, other = 1 / max(error, 1e-6) ** 2, 1 / PRIOR_ERROR**2
    log = (own * np.log(measured) + other * np.log(prior)) / (own + other)
    return float(np.exp(log)), float((own + other) ** -0.5)


def plausible(measured: float, error: float, prior: float) -> bool:
    """Returns whether a measured focal length is within three standard errors of typical ones: far outside, the reconstruction is wrong."""
    return bool(abs(np.log(measured / prior)) <= 3 * np.hypot(error, PRIOR_ERROR))


def with_focal(models: list[Any], focal: float) -> list[Any]:
    """Returns copies of COLMAP's models with a fixed focal length in pixels, poses and points adjusted to it."""
    adjusted = []
    for model in models:
        fixed = copy.deepcopy(model)
        config, options = pycolmap.BundleAdjustmentConfig(), pycolmap.BundleAdjustmentOptions()
        for camera_id, camera in fixed.cameras.items():
            camera.focal_length = focal
            config.set_constant_cam_intrinsics(camera_id)
        for image in registered(fixed).values():
            config.add_image(image.image_id)
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        options.ceres.solver_options.num_threads, options.print_summary = 1, False
        pycolmap.create_default_ceres_bundle_adjuster(options, config, fixed).solve()
        fixed.update_point_3d_errors()
        adjusted.append(fixed)
    return adjusted


def motion_error(models: list[Any], focal: float) -> float:
    """Returns how much the paths of models depend on the lens: the largest distance of paths at 1.25 times and 1 / 1.25 times a focal
    length, after alignment, over the path's extent."""
    longer, shorter = with_focal(models, focal * STRETCH), with_focal(models, focal / STRETCH)
    errors = []
    for one, other in zip(longer, shorter, strict=True):
        first, second = (np.linalg.inv(np.stack([pose for _, pose in sorted(poses_of(model).items())])) for model in (one, other))
        extent = float(np.linalg.norm(np.ptp(first[:, :3, 3], axis=0)))
        errors.append(centre_error_rms(second, first) / max(extent, 1e-12))
    return max(errors)


