"""First points of a scene: from depth, from a cloud of structure from motion, or triangulated from tracks; then more along rays.

A sparse cloud is filled up: a random pixel gets the depth of the nearest known point in its picture. Without any known point the depths
are spread evenly in their logarithm over DEPTHS, and the fit has to move the points.
"""

import numpy as np
from numpy.typing import NDArray

from moworld.applications.splats.footage import Cloud, Footage
from moworld.camera import Cameras
from moworld.data.tracks import follow

DEPTHS = (0.5, 10.0)  # scene units
LEAST_VIEWS, LEAST_PARALLAX, MOST_ERROR = 4, 1.0, 1.5  # of a triangulated point: frames, degrees, pixels
FRAMES = 32  # of a clip that points are taken from
SPREAD = 0.05  # standard deviation of the logarithm of a depth that is taken from a neighbour

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def first_points(footage: Footage, count: int, seed: int = 0) -> tuple[Cloud, str]:
    """Returns at most `count` points, at least 2, in scene units and the world of the first camera, and a phrase that names their origin."""
    rng = np.random.default_rng(seed)
    if footage.depth is not None:
        return _from_depth(footage, footage.depth, count, rng), "depth of the recording"
    known, origin = footage.cloud, "points of the clip"
    if known is None or len(known[0]) < 2:
        known, origin = triangulated(footage.frames, footage.cameras), "triangulated tracks"
    if len(known[0]) > count:
        kept = rng.choice(len(known[0]), count, replace=False)
        return (known[0][kept], known[1][kept]), origin
    filled = _along_rays(footage, known[0], count - len(known[0]), rng)
    both = np.concatenate([known[0], filled[0]]), np.concatenate([known[1], filled[1]])
    return both, f"{len(known[0])} {origin}, {len(filled[0])} along rays"


def _pixels(footage: Footage, num_frames: int, count: int, rng: np.random.Generator) -> tuple[Index, Index, Index]:
    """Returns the numbers of frames, rows and columns of `count` random pixels in FRAMES of the first num_frames frames."""
    frames = np.unique(np.linspace(0, num_frames - 1, FRAMES).astype(int))
    height, width = footage.frames.shape[1:3]
    return np.sort(rng.choice(frames, count)), rng.integers(height, size=count), rng.integers(width, size=count)


def _from_depth(footage: Footage, depth: NDArray[np.float32], count: int, rng: np.random.Generator) -> Cloud:
    frame, row, column = _pixels(footage, len(depth), count, rng)
    height, width = footage.frames.shape[1:3]
    rows, columns = (row * depth.shape[1] // height), (column * depth.shape[2] // width)
    return _placed(footage, frame, row, column, depth[frame, rows, columns].astype(np.float64))


def _placed(footage: Footage, frame: Index, row: Index, column: Index, depth: Array) -> Cloud:
    """Returns the points at depths (N,) of pixels (N,) each."""
    height, width = footage.frames.shape[1:3]
    fx, fy, cx, cy = footage.cameras.intrinsics[frame].T
    rays = np.stack([((column + 0.5) / width - cx) / fx, ((row + 0.5) / height - cy) / fy, np.ones(len(frame))], axis=1)
    c2w = footage.cameras.c2w[frame]
    points = np.einsum("nij,nj->ni", c2w[:, :3, :3], rays * depth[:, None]) + c2w[:, :3, 3]
    return points.astype(np.float32), footage.frames[frame, row, column]


def _along_rays(footage: Footage, known: NDArray[np.float32], count: int, rng: np.random.Generator) -> Cloud:
    """Returns points of random pixels, each at the depth of the nearest of the known points (N, 3) in its picture."""
    from scipy.spatial import cKDTree

    frame, row, column = _pixels(footage, len(footage.frames), count, rng)
    depth = np.exp(rng.uniform(np.log(DEPTHS[0]), np.log(DEPTHS[1]), count))
    height, width = footage.frames.shape[1:3]
    for number in np.unique(frame):
        camera = known @ footage.cameras.w2c[number, :3, :3].T + footage.cameras.w2c[number, :3, 3]
        fx, fy, cx, cy = footage.cameras.intrinsics[number]
        z = camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.stack([(camera[:, 0] / z * fx + cx) * width, (camera[:, 1] / z * fy + cy) * height], axis=1)
        seen = (z > 0.05) & (at >= 0).all(axis=1) & (at < (width, height)).all(axis=1)
        if seen.any():
            mine = frame == number
            _, nearest = cKDTree(at[seen]).query(np.stack([column[mine], row[mine]], axis=1) + 0.5)
            depth[mine] = z[seen][nearest] * np.exp(SPREAD * rng.standard_normal(mine.sum()))
    return _placed(footage, frame, row, column, depth)


def triangulated(frames: NDArray[np.uint8], cameras: Cameras) -> Cloud:
    """Returns the points that tracks through frames (T, H, W, 3) with known cameras agree on: nearest to all rays of a track."""
    height, width = frames.shape[1:3]
    observed = follow(enumerate(frames), set(), 0)
    number = np.concatenate([np.full(len(each.ids), index) for index, each in observed.items()])
    track = np.unique(np.concatenate([each.ids for each in observed.values()]), return_inverse=True)[1]
    pixel = np.concatenate([each.points for each in observed.values()]).astype(np.float64) + 0.5
    if not len(track):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    fx, fy, cx, cy = cameras.intrinsics[number].T
    local = np.stack([(pixel[:, 0] / width - cx) / fx, (pixel[:, 1] / height - cy) / fy, np.ones(len(pixel))], axis=1)
    c2w = cameras.c2w[number]
    rays = np.einsum("nij,nj->ni", c2w[:, :3, :3], local / np.linalg.norm(local, axis=1, keepdims=True))
    across = np.eye(3) - rays[:, :, None] * rays[:, None]  # projection onto the plane across each ray
    system, target = np.zeros((track.max() + 1, 3, 3)), np.zeros((track.max() + 1, 3))
    np.add.at(system, track, across)
    np.add.at(target, track, np.einsum("nij,nj->ni", across, c2w[:, :3, 3]))
    views = np.bincount(track)
    spread = np.linalg.eigvalsh(system / views[:, None, None])[:, 0]  # 0 for parallel rays, sin^2 of their spread to the mean
    good = (views >= LEAST_VIEWS) & (spread > np.sin(np.radians(LEAST_PARALLAX / 2)) ** 2)
    points = np.zeros_like(target)
    points[good] = np.linalg.solve(system[good], target[good][..., None])[..., 0]
    camera = np.einsum("nij,nj->ni", cameras.w2c[number, :3, :3], points[track]) + cameras.w2c[number, :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.hypot((camera[:, 0] / camera[:, 2] - local[:, 0]) * fx * width, (camera[:, 1] / camera[:, 2] - local[:, 1]) * fy * height)
    worst = np.zeros(len(views))
    np.maximum.at(worst, track, np.where(camera[:, 2] > 0, error, np.inf))
    good &= worst < MOST_ERROR
    first = np.full(len(views), len(track))
    np.minimum.at(first, track, np.arange(len(track)))
    at = first[good]
    column, row = np.clip(pixel[at].astype(int), 0, (width - 1, height - 1)).T
    return points[good].astype(np.float32), frames[number[at], row, column]


