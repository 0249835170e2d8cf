"""Structure from motion on the CPU (COLMAP): poses, one lens and points from pictures alone, in windows that are joined by Sim(3).

A heavier backend (a feed-forward one of VGGT's class) has its place behind `Backend`: pictures in, reconstructions out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moworld.camera.se3 import rotation_angle_degrees
from moworld.data.verification import GeometrySettings

Array = NDArray[np.float64]
MIN_SHARED = 3  # pictures that two reconstructions must share to be joined
LOOKALIKES = 4  # pictures far away in time that each picture is matched with as well


@dataclass(frozen=True)
class Structure:
    """What pictures of one scene gave.

    poses:      picture's number -> w2c (4, 4), OpenCV axes, arbitrary scale
    intrinsics: (4,) fx, fy, cx, cy in pixels
    points:     (N, 3) float32 with colours (N, 3) uint8; errors in pixels (N,), track_lengths (N,) pictures that see each point
    parallax:   (N,) degrees between the outermost rays to a point
    """

    poses: dict[int, Array]
    intrinsics: Array
    points: NDArray[np.float32]
    colours: NDArray[np.uint8]
    errors: Array
    track_lengths: Array
    parallax: Array


class Backend(Protocol):
    """Pictures NUMBER.png of a folder -> the structures they show, the one with most pictures first; empty where nothing was found."""

    def __call__(self, images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]: ...


def colmap(images: Path, scratch: Path, settings: GeometrySettings) -> list[Structure]:
    """COLMAP over windows of the pictures, joined where they share pictures. One thread and fixed seeds: the same each time."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    database, names = scratch / "database.db", sorted(path.name for path in images.glob("*.png"))
    extraction, reading = pycolmap.FeatureExtractionOptions(), pycolmap.ImageReaderOptions()
    extraction.use_gpu, extraction.num_threads, extraction.sift.max_num_features = False, 1, settings.sfm_features
    reading.camera_model = "SIMPLE_PINHOLE"  # a lens that our camera files can say; on level ground two focal lengths cannot be told apart
    single = pycolmap.CameraMode.SINGLE
    pycolmap.extract_features(database, images, camera_mode=single, reader_options=reading, extraction_options=extraction)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu, matching.num_threads = False, 1
    (scratch / "pairs.txt").write_text("\n".join(f"{names[a]} {names[b]}" for a, b in pairs(images, names, settings.sfm_reach)))
    importing = pycolmap.ImportedPairingOptions()
    importing.match_list_path = scratch / "pairs.txt"
    pycolmap.match_image_pairs(database, matching_options=matching, pairing_options=importing)
    found: list[Any] = []
    for start in range(0, max(1, len(names) - settings.sfm_overlap), settings.sfm_window - settings.sfm_overlap):
        folder = scratch / f"window-{start}"
        folder.mkdir()
        window = names[start : start + settings.sfm_window]
        found += pycolmap.incremental_mapping(database, images, folder, options=_mapping(window)).values()
    groups = join([_poses(model) for model in found])
    return sorted((_structure(found, group, images) for group in groups), key=lambda one: -len(one.poses))


def pairs(images: Path, names: list[str], reach: int) -> list[tuple[int, int]]:
    """Which pictures are matched: those near in time (and at doubling distances), and those far away in time that look alike."""
    import cv2

    near = {(a, b) for a in range(len(names)) for k in range(reach) for b in (a + k + 1, a + 2**k) if b < len(names)}
    small = [cv2.resize(cv2.imread(str(images / name), cv2.IMREAD_GRAYSCALE), (24, 18), interpolation=cv2.INTER_AREA) for name in names]
    looks = np.stack([picture.astype(np.float64).ravel() for picture in small])
    looks -= looks.mean(axis=1, keepdims=True)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True).clip(1e-9)
    alike = looks @ looks.T
    alike[np.abs(np.subtract.outer(range(len(names)), range(len(names)))) <= reach] = -1
    for a, row in enumerate(alike):
        near |= {(min(a, int(b)), max(a, int(b))) for b in np.argsort(-row)[:LOOKALIKES] if row[b] > 0.5}
    return sorted(near)


def join(models: list[dict[int, Array]]) -> list[dict[int, tuple[float, Array]]]:
    """Groups of models in one world each: model's index -> its scale and rigid motion (4, 4) into the group's first model's world.

    Greedy, the largest first; two models are joined where shared pictures agree on one Sim(3) (`similarity`).
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
                found = None if other in placed else similarity(models[other], world)
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


def _mapping(window: list[str]) -> Any:
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.min_model_size, options.random_seed, options.image_names = 1, 5, 0, window
    return options


def _poses(model: Any) -> dict[int, Array]:
    images = (image for image in model.images.values() if image.has_pose)
    return {int(Path(image.name).stem): np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for image in images}


def _structure(models: list[Any], group: dict[int, tuple[float, Array]], images: Path) -> Structure:
    """Models that were joined, as one: where two hold a picture or a place, the one that came first counts."""
    poses: dict[int, Array] = {}
    parts = []
    for index, (scale, motion) in group.items():
        poses = {n: moved(pose, scale, motion) for n, pose in _poses(models[index]).items()} | poses
        parts.append(_cloud(models[index], scale, motion))
    weights = np.array([models[index].num_reg_images() for index in group], float)
    lenses = np.stack([next(iter(models[index].cameras.values())).calibration_matrix() for index in group])
    k = np.average(lenses, axis=0, weights=weights)
    points, colours, errors, lengths, parallax = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Structure(
        poses,
        np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]),
        points.astype(np.float32),
        colours.astype(np.uint8),
        errors,
        lengths,
        parallax,
    )


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
