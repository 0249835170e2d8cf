"""Which pictures of a reconstruction are to be trusted: those that their tracks agree with, and those that another attempt placed alike.

A reconstruction that took one repeat of a texture for another, or lost its scale in a turn on the spot, has small errors: what disagreed was cut off.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.similarity import moved, similarity
from moworld.data.tracks import Sight

Array = NDArray[np.float64]
SMALLEST = 5  # pictures of a model
NEAR = 4.0  # pixels within which a sight agrees with where a model puts its point
SURE, WRONG = 0.75, 0.5  # shares of a picture's sights that agree: below the first it is doubted, below the second wrong
SAME_DEGREES, SAME_PLACE = 1.0, 0.05  # by which two attempts may differ in a pose; the second as a share of the spread of the places
SHARP = 1.5  # pixels that a sight may be off its point: points are followed to a fraction of one; COLMAP allows 4
SPREAD = 1.5  # degrees between the rays to a point, at least: COLMAP's own


def agreement(model: Any, sights: dict[int, Sight]) -> dict[int, float]:
    """Of each picture of a model, the share of its sights of points that are near where the model puts them.

    COLMAP cuts off from a point's track the sights that disagree: where a turn on the spot ends the scale, or one repeat of a texture was taken
    for another, what is left has small errors and points enough. Those sights are counted here.
    """
    places, camera, shares = places_of(model, sights), next(iter(model.cameras.values())), dict[int, float]()
    for number, image in sorted(registered(model).items()):
        known, there = known_points(sights[number], places)
        in_camera = there @ image.cam_from_world().matrix()[:, :3].T + image.cam_from_world().matrix()[:, 3]
        seen = camera.img_from_cam(in_camera, check_cheirality=False)
        near = (np.linalg.norm(seen - known, axis=1) < NEAR) & (in_camera[:, 2] > 0)
        shares[number] = float(near.mean()) if len(near) else 0.0
    return shares


def reproduced(poses: dict[int, Array], other: dict[int, Array]) -> set[int]:
    """The pictures that another reconstruction placed alike, up to one Sim(3). Wrong ones differ from one random start to the next.

    poses, other: w2c (4, 4) by picture
    """
    found = similarity(other, poses)
    if found is None:
        return set()
    spread = np.std([np.linalg.inv(pose)[:3, 3] for pose in poses.values()], axis=0)
    same = set[int]()
    for number in poses.keys() & other.keys():
        here, there = np.linalg.inv(poses[number]), np.linalg.inv(moved(other[number], *found))
        near = np.linalg.norm(here[:3, 3] - there[:3, 3]) <= SAME_PLACE * np.linalg.norm(spread)
        if near and rotation_angle_degrees(here[:3, :3].T @ there[:3, :3]) <= SAME_DEGREES:
            same.add(number)
    return same


def trusted(model: Any, sights: dict[int, Sight], others: list[dict[int, Array]]) -> list[Any]:
    """The model itself where all its pictures are to be trusted; else its runs of pictures that are, each a model of its own, adjusted again.

    others: poses (w2c by picture) of other attempts' models. Tracks that slip along a texture contradict pictures that are placed rightly; then
    all attempts find the same.
    """
    import pycolmap

    images, runs, shares = registered(model), [list[int]()], agreement(model, sights)
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
        part.tear_down()  # forgets them
        pycolmap.ObservationManager(part).filter_all_points3D(SHARP, SPREAD)
        adjuster(part).solve()
        pycolmap.ObservationManager(part).filter_all_points3D(SHARP, SPREAD)
        part.update_point_3d_errors()
        parts.append(part)
    return parts


def registered(model: Any) -> dict[int, Any]:
    """COLMAP's images that have a pose, by picture."""
    return {int(Path(image.name).stem): image for image in model.images.values() if image.has_pose}


def places_of(model: Any, sights: dict[int, Sight]) -> dict[int, Array]:
    """A model's points (3,), in its world, by the track that led to them."""
    return {
        int(sights[number].ids[index]): model.points3D[point.point3D_id].xyz
        for number, image in registered(model).items()
        for index, point in enumerate(image.points2D)
        if point.has_point3D()
    }


def known_points(sight: Sight, places: dict[int, Array]) -> tuple[Array, Array]:
    """Where a picture sees tracks that have a point (n, 2), COLMAP's pixels, and the points (n, 3)."""
    known = [index for index, track in enumerate(sight.ids.tolist()) if track in places]
    there = np.array([places[int(sight.ids[index])] for index in known]).reshape(-1, 3)
    return sight.points[known].astype(np.float64) + 0.5, there


def poses_of(model: Any) -> dict[int, Array]:
    """w2c (4, 4) by picture."""
    return {number: np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for number, image in registered(model).items()}


def adjuster(model: Any) -> Any:
    """Of all poses, points and the focal length of a model: `pycolmap.bundle_adjustment` has no other defaults, but turns COLMAP's log on."""
    import pycolmap

    config, options = pycolmap.BundleAdjustmentConfig(), pycolmap.BundleAdjustmentOptions()
    for image in registered(model).values():
        config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options.ceres.solver_options.num_threads, options.print_summary = 1, False
    return pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
