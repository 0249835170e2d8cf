"""Structure from motion on the CPU (COLMAP): poses, shared intrinsics and points from a video alone, in windows that are joined by Sim(3).

A heavier backend (a feed-forward model such as VGGT) can implement `Backend`: images in, reconstructions out.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from moworld.camera.lens import Distortion
from moworld.data.agreement import SHARP, SMALLEST, SURE, adjuster, agreement, known_points, places_of, poses_of, registered, trusted
from moworld.data.photographs import is_video, reconstruct
from moworld.data.prior_lens import SURE as SURE_LENS
from moworld.data.prior_lens import combined, motion_error, plausible, with_focal
from moworld.data.similarity import join, transform_pose
from moworld.data.tracks import Observations, follow
from moworld.data.turns import extend_turns
from moworld.data.verification import MIN_MATCHES, GeometrySettings

Array = NDArray[np.float64]
SUFFIXES = (".png", ".jpg", ".jpeg")
LENS = 1.2  # image widths: initial focal length
REACHES = (1, 2, 3, 4, 6, 8, 12, 16)  # keyframe distances that are matched
ATTEMPTS = 4  # random starts, while images are missing or doubtful


@dataclass(frozen=True)
class Structure:
    """A reconstruction of images of one scene.

    poses:      image number -> w2c (4, 4), OpenCV axes, arbitrary scale
    intrinsics: (4,) fx, fy, cx, cy in pixels
    points:     (N, 3) float32 with colours (N, 3) uint8; errors in pixels (N,), track_lengths (N,) images per point
    parallax:   (N,) degrees between the outermost rays to a point
    lens_error: standard error of the focal length, relative to it; includes the disagreement of joined models
    distortion: the lens's distortion, or None for a pinhole lens
    lens_origin: measured, or prior if the pictures do not determine the lens
    motion_error: largest change of the path, over its extent, between 1 / 1.25 and 1.25 times a prior lens; 0 for a measured one
    ordered:    whether the images are a video; if not, nothing is known between two of them
    """

    poses: dict[int, Array]
    intrinsics: Array
    points: NDArray[np.float32]
    colours: NDArray[np.uint8]
    errors: Array
    track_lengths: Array
    parallax: Array
    lens_error: float
    distortion: Distortion | None = None
    lens_origin: str = "measured"
    motion_error: float = 0.0
    ordered: bool = True


class Backend(Protocol):
    """Maps a folder of consecutive images NUMBER.png to reconstructions, the one with most images first; empty if nothing was found."""

    def __call__(self, images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]: ...


def colmap(images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]:
    """Runs COLMAP on a video or on photographs, whichever the images are (`photographs.is_video`). One thread and fixed seeds: deterministic."""
    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    files = sorted((path for path in images.iterdir() if path.suffix.lower() in SUFFIXES), key=lambda path: int(path.stem))
    if is_video(files):
        return _video(images, scratch, settings)
    models = reconstruct(images, [path.name for path in files], scratch, seed=0)
    return [_photographs(model) for model in models]


def _video(images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]:
    """Runs COLMAP over windows of every n-th image and joins them where they share images.

    Matches are points tracked through all images (`tracks`). Revisited places are not matched: in levels with repeating textures most
    matches between distant images joined two different places. Models are kept if the tracks agree with them or another attempt
    found the same (`agreement`). Of several attempts the one that places most images is returned.
    """
    numbers = sorted(int(path.stem) for path in images.glob("*.png"))
    chosen = sorted({*numbers[:: settings.sfm_every], *numbers[-1:]})
    pictures = ((number, cv2.cvtColor(cv2.imread(str(images / _name(number))), cv2.COLOR_BGR2RGB)) for number in numbers)
    observations = follow(pictures, set(chosen), settings.sfm_features)
    database = scratch / "database.db"
    size_hw = np.asarray(cv2.imread(str(images / _name(numbers[0])))).shape[:2]
    _matched(database, {number: observations[number] for number in chosen}, size_hw, scratch)
    attempts: list[list[Any]] = []
    for seed in range(ATTEMPTS):
        attempts.append(_models(database, images, chosen, settings, seed))
        if {number for model in attempts[-1] for number, share in agreement(model, observations).items() if share >= SURE} >= set(chosen):
            break
    best, best_parts = list[Structure](), list[Any]()
    for models in attempts:
        others = [poses_of(model) for other in attempts if other is not models for model in other]
        parts = [part for model in models for part in trusted(model, observations, others)]
        found = _structures(parts, observations, chosen, settings)
        if found and (not best or len(found[0].poses) > len(best[0].poses)):
            best, best_parts = found, parts
    if best and best[0].lens_error > SURE_LENS:
        return _with_prior_lens(best_parts, best[0], observations, chosen, settings)
    return best


def _with_prior_lens(
    models: list[Any], measured: Structure, observations: dict[int, Observations], chosen: list[int], settings: GeometrySettings
) -> list[Structure]:
    """Returns the structures of models whose lens is fixed at a mean of the measured and a typical one.

    A lens that is far from typical ones gets the largest error instead: such reconstructions were wrong.
    """
    camera = next(iter(models[0].cameras.values()))
    typical = settings.prior_lens * max(camera.width, camera.height)
    if not plausible(float(measured.intrinsics[0]), measured.lens_error, typical):
        return [replace(measured, lens_error=1.0)]
    focal, error = combined(float(measured.intrinsics[0]), measured.lens_error, typical)
    dependence = motion_error(models, focal)
    found = _structures(with_focal(models, focal), observations, chosen, settings)
    return [replace(one, lens_error=error, lens_origin="prior", motion_error=dependence) for one in found]


def _models(database: Path, images: Path, chosen: list[int], settings: GeometrySettings, seed: int) -> list[Any]:
    """Returns COLMAP's models of all windows, from one random start."""
    models: list[Any] = []
    for start in range(0, max(1, len(chosen) - settings.sfm_overlap), settings.sfm_window - settings.sfm_overlap):
        folder = database.parent / f"window-{seed}-{start}"
        folder.mkdir()
        window = [_name(number) for number in chosen[start : start + settings.sfm_window]]
        models += pycolmap.incremental_mapping(database, images, folder, options=_mapping(window, seed)).values()
    return models


def _structures(models: list[Any], observations: dict[int, Observations], chosen: list[int], settings: GeometrySettings) -> list[Structure]:
    """Returns joined models with the images between theirs and the turns at their ends, the one with most images first."""
    poses = [_between(model, observations, 2 * settings.sfm_every) | poses_of(model) for model in models]
    found = [_structure(models, poses, group) for group in join(poses)]
    found = [replace(one, poses=extend_turns(one.poses, observations, one.intrinsics, chosen)) for one in found]
    return sorted(found, key=lambda one: -len(one.poses))


def _matched(database: Path, observations: dict[int, Observations], size_hw: tuple[int, int], scratch: Path) -> None:
    """Writes a database of the tracks: one camera, one keypoint per observation, verified matches of image pairs that share enough tracks."""
    with pycolmap.Database.open(database) as opened:
        # the model of our camera files; on level ground two focal lengths cannot be distinguished
        lens = pycolmap.Camera.create(1, pycolmap.CameraModelId.SIMPLE_PINHOLE, LENS * size_hw[1], size_hw[1], size_hw[0])
        camera = opened.write_camera(lens)
        entries = {}
        for number, observed in observations.items():
            entries[number] = opened.write_image(pycolmap.Image(name=_name(number), camera_id=camera))
            opened.write_keypoints(entries[number], observed.points + np.float32(0.5))
        order, pairs = sorted(observations), list[str]()
        for index, number in enumerate(order):
            for other in (order[index + reach] for reach in REACHES if index + reach < len(order)):
                _, mine, theirs = np.intersect1d(observations[number].ids, observations[other].ids, assume_unique=True, return_indices=True)
                if len(mine) >= MIN_MATCHES:
                    opened.write_matches(entries[number], entries[other], np.column_stack([mine, theirs]).astype(np.uint32))
                    pairs.append(f"{_name(number)} {_name(other)}")
    (scratch / "pairs.txt").write_text("\n".join(pairs))
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    pycolmap.verify_matches(database, scratch / "pairs.txt", options=options)
    calibration = pycolmap.ViewGraphCalibrationOptions()
    calibration.random_seed, calibration.cross_validate_prior_focal_lengths = 0, False
    pycolmap.calibrate_view_graph(database, calibration)  # on failure the initial focal length stays, and is refined too


def _between(model: Any, observations: dict[int, Observations], largest_gap: int) -> dict[int, Array]:
    """Returns poses of the images between a model's own, from the model's points that were tracked through them.

    Images are omitted if fewer than half of the points agree with one pose.
    """
    camera, places = next(iter(model.cameras.values())), places_of(model, observations)
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.ransac.max_error, estimation.ransac.random_seed = 4.0, 0
    found: dict[int, Array] = {}
    for first, last in pairwise(sorted(registered(model))):
        for number in range(first + 1, last) if last - first <= largest_gap else ():
            seen, there = known_points(observations[number], places)
            pose = pycolmap.estimate_and_refine_absolute_pose(seen, there, camera, estimation) if len(seen) >= MIN_MATCHES else None
            if pose is not None and pose["num_inliers"] >= max(MIN_MATCHES, len(seen) / 2):
                found[number] = np.vstack([pose["cam_from_world"].matrix(), [0, 0, 0, 1]])
    return found


def _name(number: int) -> str:
    return f"{number:06d}.png"


def _mapping(window: list[str], seed: int) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.min_model_size, options.random_seed, options.image_names = 1, SMALLEST, seed, window
    options.mapper.filter_max_reproj_error = SHARP
    options.triangulation.complete_max_reproj_error = options.triangulation.merge_max_reproj_error = SHARP
    return options


def _structure(models: list[Any], all_poses: list[dict[int, Array]], group: dict[int, tuple[float, Array]]) -> Structure:
    """Merges joined models into one; where two have the same image, the first counts."""
    poses: dict[int, Array] = {}
    parts = []
    for index, (scale, motion) in group.items():
        poses = {n: transform_pose(pose, scale, motion) for n, pose in all_poses[index].items()} | poses
        parts.append(_cloud(models[index], scale, motion))
    weights = np.array([models[index].num_reg_images() for index in group], float)
    lenses = np.stack([next(iter(models[index].cameras.values())).calibration_matrix() for index in group])
    k = np.average(lenses, axis=0, weights=weights)
    own, apart = (np.array([_lens_error(models[index]) for index in group]) * lenses[:, 0, 0], lenses[:, 0, 0] - k[0, 0])
    points, colours, errors, lengths, parallax = (np.concatenate(part) for part in zip(*parts, strict=True))
    lens_error = float(np.sqrt(np.average(own**2 + apart**2, weights=weights)) / k[0, 0])
    intrinsics = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    return Structure(poses, intrinsics, points.astype(np.float32), colours.astype(np.uint8), errors, lengths, parallax, lens_error)


def _photographs(model: Any) -> Structure:
    """Returns COLMAP's model of photographs. Of several lenses the one with most images counts."""
    uses = Counter(image.camera_id for image in registered(model).values())
    camera = model.cameras[uses.most_common(1)[0][0]]
    k = camera.calibration_matrix()
    params = tuple(float(value) for value in camera.params)
    plain = camera.model.name == "SIMPLE_PINHOLE"
    distortion = None if plain else Distortion(camera.model.name, params, (camera.height, camera.width))
    points, colours, errors, lengths, parallax = _cloud(model, 1.0, np.eye(4))
    intrinsics = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    cloud = points.astype(np.float32), colours.astype(np.uint8)
    return Structure(poses_of(model), intrinsics, *cloud, errors, lengths, parallax, _lens_error(model), distortion, ordered=False)


def _lens_error(model: Any) -> float:
    """Returns the standard error of a model's focal length relative to it, from reprojection errors; at most 1.

    Observations of a track err together, because each was tracked from the previous one, so a track counts once. A plain with a sky, or a
    slide without a turn, fits many focal lengths: reprojection errors are small for each of them, but this error is large.
    """
    options, camera = pycolmap.BACovarianceOptions(), next(iter(model.cameras.values()))
    options.params = pycolmap.BACovarianceOptionsParams.ALL
    covariance = pycolmap.estimate_ba_covariance(options, model, adjuster(model))
    own = None if covariance is None else covariance.get_other_params_cov(camera.params)
    off = model.compute_mean_reprojection_error() * np.sqrt(model.compute_mean_track_length())
    return 1.0 if own is None else min(1.0, float(np.sqrt(own[0, 0]) * off / camera.params[0]))


def _cloud(model: Any, scale: float, motion: Array) -> tuple[Array, ...]:
    """Returns points, colours, errors, track lengths and parallax of a model, with points in the group's world."""
    poses = poses_of(model)
    centres = {image.image_id: np.linalg.inv(poses[number])[:3, 3] for number, image in registered(model).items()}
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
    """Returns the largest angle in degrees between the first ray (N, 3) and the others; the true spread is at most twice as large."""
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-12)
    return float(np.degrees(np.arccos(np.clip(unit @ unit[0], -1, 1)).max()))
