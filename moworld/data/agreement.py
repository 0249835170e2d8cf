"""Filters SfM images by track inliers and by agreement between reconstruction attempts.

A reconstruction that confused two repeats of a texture, or lost its scale in a turn on the spot, still has small reprojection errors,
because COLMAP removed the observations that disagreed. These functions count those observations.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.similarity import similarity, transform_pose
from moworld.data.tracks import Observations

Array = NDArray[np.float64]
SMALLEST = 5  # images of a model
NEAR = 4.0  # pixels: largest reprojection error of an inlier
SURE, WRONG = 0.75, 0.5  # inlier shares of an image: below the first it is doubtful, below the second wrong
SAME_DEGREES, SAME_PLACE = 1.0, 0.05  # allowed pose difference of two attempts; the second as a share of the spread of camera centres
SHARP = 1.5  # pixels: largest reprojection error of a kept observation (COLMAP allows 4); tracking is subpixel
SPREAD = 1.5  # degrees: smallest triangulation angle, COLMAP's default


def agreement(model: Any, observations: dict[int, Observations]) -> dict[int, float]:
    """Returns, per registered image, the share of its observations that are within `NEAR` pixels of their point's projection.

    observations: of every image, including those that COLMAP removed from the points' tracks
    """
    places, camera, shares = places_of(model, observations), next(iter(model.cameras.values())), dict[int, float]()
    for number, image in sorted(registered(model).items()):
        known, there = known_points(observations[number], places)
        in_camera = there @ image.cam_from_world().matrix()[:, :3].T + image.cam_from_world().matrix()[:, 3]
        seen = camera.img_from_cam(in_camera, check_cheirality=False)
        near = (np.linalg.norm(seen - known, axis=1) < NEAR) & (in_camera[:, 2] > 0)
        shares[number] = float(near.mean()) if len(near) else 0.0
    return shares


def reproduced(poses: dict[int, Array], other: dict[int, Array]) -> set[int]:
    """Returns the images that another reconstruction placed equally, up to one Sim(3). Wrong placements differ between random starts.

    poses, other: w2c (4, 4) by image number
    """
    found = similarity(other, poses)
    if found is None:
        return set()
    spread = np.std([np.linalg.inv(pose)[:3, 3] for pose in poses.values()], axis=0)
    same = set[int]()
    for number in poses.keys() & other.keys():
        here, there = np.linalg.inv(poses[number]), np.linalg.inv(transform_pose(other[number], *found))
        near = np.linalg.norm(here[:3, 3] - there[:3, 3]) <= SAME_PLACE * np.linalg.norm(spread)
        if near and rotation_angle_degrees(here[:3, :3].T @ there[:3, :3]) <= SAME_DEGREES:
            same.add(number)
    return same


def trusted(model: Any, observations: dict[int, Observations], others: list[dict[int, Array]]) -> list[Any]:
    """Returns the model if all its images are trusted, otherwise its runs of trusted images, each as a re-adjusted model.

    others: poses (w2c by image number) of the models of other attempts. Tracks that slip along a texture contradict correctly placed images,
    but then all attempts agree.
    """
    images, runs, shares = registered(model), [list[int]()], agreement(model, observations)
    alike: set[int] = set().union(*(reproduced(poses_of(model), other) for other in others)) if min(shares.values()) < SURE else set()
    for number, share in shares.items():
        if share >= SURE or (share >= WRONG and number in alike):
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    if len(runs[0]) == len(images):
        return [model]
    parts = []
    for run in (run for run in runs if len(run) >= SMALLEST):
        part = copy.deepcopy(model)
        for number in images.keys() - set(run):
            part.deregister_frame(images[number].frame_id)
        part.tear_down()  # removes deregistered frames
        pycolmap.ObservationManager(part).filter_all_points3D(SHARP, SPREAD)
        adjuster(part).solve()
        pycolmap.ObservationManager(part).filter_all_points3D(SHARP, SPREAD)
        part.update_point_3d_errors()
        parts.append(part)
    return parts


def registered(model: Any) -> dict[int, Any]:
    """Returns COLMAP's images that have a pose, by image number."""
    return {int(Path(image.name).stem): image for image in model.images.values() if image.has_pose}


def places_of(model: Any, observations: dict[int, Observations]) -> dict[int, Array]:
    """Returns a model's points (3,), in its world, by track id."""
    return {
        int(observations[number].ids[index]): model.points3D[point.point3D_id].xyz
        for number, image in registered(model).items()
        for index, point in enumerate(image.points2D)
        if point.has_point3D()
    }


def known_points(observed: Observations, places: dict[int, Array]) -> tuple[Array, Array]:
    """Returns the observed pixels (n, 2), in COLMAP's convention, of tracks that have a point, and those points (n, 3)."""
    known = [index for index, track in enumerate(observed.ids.tolist()) if track in places]
    there = np.array([places[int(observed.ids[index])] for index in known]).reshape(-1, 3)
    return observed.points[known].astype(np.float64) + 0.5, there


def poses_of(model: Any) -> dict[int, Array]:
    """Returns w2c (4, 4) by image number."""
    return {number: np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for number, image in registered(model).items()}


def adjuster(model: Any) -> Any:
    """Returns a bundle adjuster for all poses, points and the focal length of a model.

    `pycolmap.bundle_adjustment` has the same defaults but enables COLMAP's log.
    """
    config, options = pycolmap.BundleAdjustmentConfig(), pycolmap.BundleAdjustmentOptions()
    for image in registered(model).values():
        config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options.ceres.solver_options.num_threads, options.print_summary = 1, False
    return pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
