"""Structure from motion on the CPU (COLMAP): poses, one lens and points from a video alone, in windows that are joined by Sim(3).

A heavier backend (a feed-forward one of VGGT's class) has its place behind `Backend`: pictures in, reconstructions out.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.tracks import Sight, follow
from moworld.data.turns import turned_on
from moworld.data.verification import MIN_MATCHES, GeometrySettings

Array = NDArray[np.float64]
MIN_SHARED = 3  # pictures that two reconstructions must share to be joined
LENS = 1.2  # widths of the picture: the focal length that is assumed before one is found
REACHES = (1, 2, 3, 4, 6, 8, 12, 16)  # keyframes ahead that each one is matched with, where tracks last that long
SMALLEST = 5  # pictures of a model
ATTEMPTS = 4  # from other random starts, while pictures are missing or doubted
SPREAD = 1.5  # degrees between the rays to a point, at least: COLMAP's own
SHARP = 1.5  # pixels that a sight may be off its point: points are followed to a fraction of one; COLMAP allows 4
NEAR = 4.0  # pixels within which a sight agrees with where a model puts its point
SURE, WRONG = 0.75, 0.5  # shares of a picture's sights that agree: below the first it is doubted, below the second taken out


@dataclass(frozen=True)
class Structure:
    """What pictures of one scene gave.

    poses:      picture's number -> w2c (4, 4), OpenCV axes, arbitrary scale
    intrinsics: (4,) fx, fy, cx, cy in pixels
    points:     (N, 3) float32 with colours (N, 3) uint8; errors in pixels (N,), track_lengths (N,) pictures that see each point
    parallax:   (N,) degrees between the outermost rays to a point
    lens_error: standard error of the focal length, as a share of it; what joined models disagree by counts, too
    """

    poses: dict[int, Array]
    intrinsics: Array
    points: NDArray[np.float32]
    colours: NDArray[np.uint8]
    errors: Array
    track_lengths: Array
    parallax: Array
    lens_error: float


class Backend(Protocol):
    """Consecutive pictures NUMBER.png of a folder -> the structures they show, the one with most pictures first; empty where nothing was found."""

    def __call__(self, images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]: ...


def colmap(images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]:
    """COLMAP over windows of every nth picture, joined where they share pictures. One thread and fixed seeds: the same each time.

    What it matches are points that were followed through all pictures (`tracks`). Places seen again are not matched: on levels whose textures
    repeat, most matches between pictures far apart were of two places, those with most inliers first. Models are kept where the tracks agree
    with them (`agreeing`); of several attempts the one that places most pictures without a doubt counts.
    """
    import cv2
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    numbers = sorted(int(path.stem) for path in images.glob("*.png"))
    chosen = sorted({*numbers[:: settings.sfm_every], *numbers[-1:]})
    pictures = ((number, cv2.cvtColor(cv2.imread(str(images / _name(number))), cv2.COLOR_BGR2RGB)) for number in numbers)
    sights = follow(pictures, set(chosen), settings.sfm_features)
    database = scratch / "database.db"
    size_hw = np.asarray(cv2.imread(str(images / _name(numbers[0])))).shape[:2]
    _matched(database, {number: sights[number] for number in chosen}, size_hw, scratch)
    return most_sure((_attempted(database, images, sights, chosen, settings, seed) for seed in range(ATTEMPTS)), len(chosen))


def most_sure(attempts: Iterable[tuple[list[Structure], int]], enough: int) -> list[Structure]:
    """The structures of the attempt with most sure pictures, the first of equals; none is made after one with enough."""
    best, most = list[Structure](), 0
    for found, sure in attempts:
        if sure > most or not best:
            best, most = found, sure
        if most >= enough:
            break
    return best


def _attempted(
    database: Path, images: Path, sights: dict[int, Sight], chosen: list[int], settings: GeometrySettings, seed: int
) -> tuple[list[Structure], int]:
    """What the database's matches give from one random start: the structures, that with most pictures first, and how many of these are sure."""
    import pycolmap

    models: list[Any] = []
    for start in range(0, max(1, len(chosen) - settings.sfm_overlap), settings.sfm_window - settings.sfm_overlap):
        folder = database.parent / f"window-{seed}-{start}"
        folder.mkdir()
        window = [_name(number) for number in chosen[start : start + settings.sfm_window]]
        for model in pycolmap.incremental_mapping(database, images, folder, options=_mapping(window, seed)).values():
            models += agreeing(model, sights)
    poses = [_between(model, sights, 2 * settings.sfm_every) | _poses(model) for model in models]
    found = [_structure(models, poses, group) for group in join(poses)]
    found = [replace(one, poses=turned_on(one.poses, sights, one.intrinsics, chosen)) for one in found]
    found.sort(key=lambda one: -len(one.poses))
    doubted = {number for model in models for number, share in agreement(model, sights).items() if share < SURE}
    return found, len(found[0].poses.keys() & set(chosen) - doubted) if found else 0


def _matched(database: Path, sights: dict[int, Sight], size_hw: tuple[int, int], scratch: Path) -> None:
    """A database of the tracks: one lens, a keypoint a sight, verified matches wherever two pictures share enough of them."""
    import pycolmap

    with pycolmap.Database.open(database) as opened:
        # a lens that our camera files can say; on level ground two focal lengths cannot be told apart
        lens = pycolmap.Camera.create(1, pycolmap.CameraModelId.SIMPLE_PINHOLE, LENS * size_hw[1], size_hw[1], size_hw[0])
        camera = opened.write_camera(lens)
        entries = {}
        for number, sight in sights.items():
            entries[number] = opened.write_image(pycolmap.Image(name=_name(number), camera_id=camera))
            opened.write_keypoints(entries[number], sight.points + np.float32(0.5))
        order, pairs = sorted(sights), list[str]()
        for index, number in enumerate(order):
            for other in (order[index + reach] for reach in REACHES if index + reach < len(order)):
                _, mine, theirs = np.intersect1d(sights[number].ids, sights[other].ids, assume_unique=True, return_indices=True)
                if len(mine) >= MIN_MATCHES:
                    opened.write_matches(entries[number], entries[other], np.column_stack([mine, theirs]).astype(np.uint32))
                    pairs.append(f"{_name(number)} {_name(other)}")
    (scratch / "pairs.txt").write_text("\n".join(pairs))
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    pycolmap.verify_matches(database, scratch / "pairs.txt", options=options)
    calibration = pycolmap.ViewGraphCalibrationOptions()
    calibration.random_seed, calibration.cross_validate_prior_focal_lengths = 0, False
    pycolmap.calibrate_view_graph(database, calibration)  # where it fails the first guess stays, and is refined as well


def agreement(model: Any, sights: dict[int, Sight]) -> dict[int, float]:
    """Of each picture of a model, the share of its sights of points that are near where the model puts them.

    COLMAP cuts off from a point's track the sights that disagree: where a turn on the spot ends the scale, or one repeat of a texture was taken
    for another, what is left has small errors and points enough. Those sights are counted here.
    """
    places, camera, shares = _places(model, sights), next(iter(model.cameras.values())), dict[int, float]()
    for number, image in sorted(_registered(model).items()):
        known, there = _known(sights[number], places)
        in_camera = there @ image.cam_from_world().matrix()[:, :3].T + image.cam_from_world().matrix()[:, 3]
        seen = camera.img_from_cam(in_camera, check_cheirality=False)
        near = (np.linalg.norm(seen - known, axis=1) < NEAR) & (in_camera[:, 2] > 0)
        shares[number] = float(near.mean()) if len(near) else 0.0
    return shares


def agreeing(model: Any, sights: dict[int, Sight]) -> list[Any]:
    """The model itself where every picture agrees with the tracks more than it disagrees; else its runs of pictures that do, each adjusted again.

    A sky that is drawn otherwise than at infinity may disagree with a picture that is placed rightly, so that a doubt alone takes none out.
    """
    import pycolmap

    images, runs = _registered(model), [list[int]()]
    for number, share in agreement(model, sights).items():
        if share >= WRONG:
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
        _adjuster(part).solve()
        pycolmap.ObservationManager(part).filter_all_points3D(SHARP, SPREAD)
        part.update_point_3d_errors()
        parts.append(part)
    return parts


def _registered(model: Any) -> dict[int, Any]:
    return {int(Path(image.name).stem): image for image in model.images.values() if image.has_pose}


def _places(model: Any, sights: dict[int, Sight]) -> dict[int, Array]:
    """A model's points by the track that led to them."""
    return {
        int(sights[number].ids[index]): model.points3D[point.point3D_id].xyz
        for number, image in _registered(model).items()
        for index, point in enumerate(image.points2D)
        if point.has_point3D()
    }


def _known(sight: Sight, places: dict[int, Array]) -> tuple[Array, Array]:
    """Where a picture sees tracks that have a point (n, 2), COLMAP's pixels, and the points (n, 3)."""
    known = [index for index, track in enumerate(sight.ids.tolist()) if track in places]
    there = np.array([places[int(sight.ids[index])] for index in known]).reshape(-1, 3)
    return sight.points[known].astype(np.float64) + 0.5, there


def _between(model: Any, sights: dict[int, Sight], largest_gap: int) -> dict[int, Array]:
    """Poses of the pictures between a model's own, from the points of the model that were followed through them.

    Left out where fewer than half of the points agree with one pose.
    """
    import pycolmap

    camera, places = next(iter(model.cameras.values())), _places(model, sights)
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.ransac.max_error, estimation.ransac.random_seed = 4.0, 0
    found: dict[int, Array] = {}
    for first, last in pairwise(sorted(_registered(model))):
        for number in range(first + 1, last) if last - first <= largest_gap else ():
            seen, there = _known(sights[number], places)
            pose = pycolmap.estimate_and_refine_absolute_pose(seen, there, camera, estimation) if len(seen) >= MIN_MATCHES else None
            if pose is not None and pose["num_inliers"] >= max(MIN_MATCHES, len(seen) / 2):
                found[number] = np.vstack([pose["cam_from_world"].matrix(), [0, 0, 0, 1]])
    return found


def _name(number: int) -> str:
    return f"{number:06d}.png"


def join(models: list[dict[int, Array]]) -> list[dict[int, tuple[float, Array]]]:
    """Groups of models in one world each: model's index -> its scale and rigid motion (4, 4) into the group's first model's world.

    Greedy, the largest first; two models are joined where shared pictures agree on one Sim(3) (`similarity`), and only where that adds pictures:
    a small model inside a large one is what was given up before the large one began, and its lens and points are often wrong.
    """
    order, groups, placed = sorted(range(len(models)), key=lambda i: -len(models[i])), list[dict[int, tuple[float, Array]]](), set[int]()
    for first in order:
        if first in placed:
            continue
        group, world = {first: (1.0, np.eye(4))}, dict(models[first])
        placed.add(first)
        grown = True
        while grown:
            grown = False
            for other in order:
                found = None if other in placed or models[other].keys() <= world.keys() else similarity(models[other], world)
                if found is not None:
                    group[other] = found
                    placed.add(other)
                    world = {number: moved(pose, *found) for number, pose in models[other].items()} | world
                    grown = True
        groups.append(group)
    return groups


def similarity(source: dict[int, Array], target: dict[int, Array]) -> tuple[float, Array] | None:
    """Scale and rigid motion that bring a model's poses (w2c by picture) into another's world, from the pictures both hold; None without.

    Rotations are averaged, so a straight walk, whose centres leave the rotation about it open, is determined as well.
    """
    shared = sorted(set(source) & set(target))
    if len(shared) < MIN_SHARED:
        return None
    theirs, ours = (np.linalg.inv(np.stack([poses[n] for n in shared])) for poses in (source, target))
    u, _, vt = np.linalg.svd((ours[:, :3, :3] @ np.swapaxes(theirs[:, :3, :3], 1, 2)).sum(axis=0))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    apart, goal = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0) for poses in (theirs, ours))
    spread = float((apart**2).sum())
    scale = float(((apart @ rotation.T) * goal).sum()) / spread if spread > 1e-12 else 0.0
    if scale <= 0:
        return None
    turned = rotation_angle_degrees(rotation @ theirs[:, :3, :3] @ np.swapaxes(ours[:, :3, :3], 1, 2))
    missed = np.linalg.norm(scale * apart @ rotation.T - goal, axis=1)
    if np.median(turned) > 3 or np.median(missed) > 0.2 * np.sqrt((goal**2).sum(axis=1).mean()):
        return None
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, ours[:, :3, 3].mean(axis=0) - scale * rotation @ theirs[:, :3, 3].mean(axis=0)
    return scale, motion


def moved(w2c: Array, scale: float, motion: Array) -> Array:
    """A pose (w2c) of a model in the world into which scale and rigid motion bring that model."""
    c2w = np.linalg.inv(w2c)
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = motion[:3, :3] @ c2w[:3, :3], scale * motion[:3, :3] @ c2w[:3, 3] + motion[:3, 3]
    return np.asarray(np.linalg.inv(made))


def _mapping(window: list[str], seed: int) -> Any:
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.min_model_size, options.random_seed, options.image_names = 1, SMALLEST, seed, window
    options.mapper.filter_max_reproj_error = SHARP
    options.triangulation.complete_max_reproj_error = options.triangulation.merge_max_reproj_error = SHARP
    return options


def _poses(model: Any) -> dict[int, Array]:
    return {number: np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for number, image in _registered(model).items()}


def _structure(models: list[Any], all_poses: list[dict[int, Array]], group: dict[int, tuple[float, Array]]) -> Structure:
    """Models that were joined, as one: where two hold a picture or a place, the one that came first counts."""
    poses: dict[int, Array] = {}
    parts = []
    for index, (scale, motion) in group.items():
        poses = {n: moved(pose, scale, motion) for n, pose in all_poses[index].items()} | poses
        parts.append(_cloud(models[index], scale, motion))
    weights = np.array([models[index].num_reg_images() for index in group], float)
    lenses = np.stack([next(iter(models[index].cameras.values())).calibration_matrix() for index in group])
    k = np.average(lenses, axis=0, weights=weights)
    own, apart = (np.array([_lens_error(models[index]) for index in group]) * lenses[:, 0, 0], lenses[:, 0, 0] - k[0, 0])
    points, colours, errors, lengths, parallax = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Structure(
        poses,
        np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]),
        points.astype(np.float32),
        colours.astype(np.uint8),
        errors,
        lengths,
        parallax,
        float(np.sqrt(np.average(own**2 + apart**2, weights=weights)) / k[0, 0]),
    )


def _lens_error(model: Any) -> float:
    """Standard error of a model's focal length, as a share of it, from how far points are seen from where they should be; at most 1.

    The sights of a track err together, for each was followed from the one before: a track counts once, however long it is. A plain and a sky, or
    a slide without a turn, fit many focal lengths: reprojection errors are small with each of them, and this one is large.
    """
    import pycolmap

    options, camera = pycolmap.BACovarianceOptions(), next(iter(model.cameras.values()))
    options.params = pycolmap.BACovarianceOptionsParams.ALL
    covariance = pycolmap.estimate_ba_covariance(options, model, _adjuster(model))
    own = None if covariance is None else covariance.get_other_params_cov(camera.params)
    off = model.compute_mean_reprojection_error() * np.sqrt(model.compute_mean_track_length())
    return 1.0 if own is None else min(1.0, float(np.sqrt(own[0, 0]) * off / camera.params[0]))


def _adjuster(model: Any) -> Any:
    """Of all poses, points and the focal length of a model: `pycolmap.bundle_adjustment` has no other defaults, but turns COLMAP's log on."""
    import pycolmap

    config, options = pycolmap.BundleAdjustmentConfig(), pycolmap.BundleAdjustmentOptions()
    for image in _registered(model).values():
        config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options.ceres.solver_options.num_threads, options.print_summary = 1, False
    return pycolmap.create_default_ceres_bundle_adjuster(options, config, model)


def _cloud(model: Any, scale: float, motion: Array) -> tuple[Array, ...]:
    """Points, colours, errors, track lengths and parallax of a model, its points in the group's world."""
    centres = {image.image_id: np.linalg.inv(np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]))[:3, 3]
               for image in model.images.values() if image.has_pose}  # fmt: skip
    entries = list(model.points3D.values())
    points = np.array([point.xyz for point in entries]).reshape(-1, 3)
    seen = [[centres[element.image_id] for element in point.track.elements] for point in entries]
    return (
        scale * points @ motion[:3, :3].T + motion[:3, 3],
        np.array([point.color for point in entries]).reshape(-1, 3),
        np.array([point.error for point in entries]),
        np.array([point.track.length() for point in entries], float),
        np.array([_widest(np.stack(from_) - xyz) for from_, xyz in zip(seen, points, strict=True)]),
    )


def _widest(rays: Array) -> float:
    """Largest angle in degrees between the first of some rays (N, 3) and the others: a bound of their spread within a factor of two."""
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-12)
    return float(np.degrees(np.arccos(np.clip(unit @ unit[0], -1, 1)).max()))
