"""Point clouds of clips: from depth maps if the source has them, otherwise from structure from motion."""

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.camera.formats import read_cameras
from moworld.data.clips import Clip
from moworld.data.depth import clip_depth
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write
from moworld.video import iterate_frames

Points = NDArray[np.float32]
Colours = NDArray[np.uint8]
FRAMES, LIMIT = 8, 20_000
VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def write_ply(path: Pathlike, points: Points, colours: Colours) -> None:
    """Writes points (N, 3) float32 and colours (N, 3) uint8 as binary PLY, the format of cloud viewers."""
    vertices = np.zeros(len(points), VERTEX)
    vertices["xyz"], vertices["rgb"] = points, colours
    with atomic_write(path) as stream:
        stream.write(_header(len(points)) + vertices.tobytes())


def _header(count: int) -> bytes:
    properties = [*(f"property float {axis}" for axis in "xyz"), *(f"property uchar {colour}" for colour in ("red", "green", "blue"))]
    return "\n".join(["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header\n"]).encode()


def read_ply(path: Pathlike) -> tuple[Points, Colours]:
    """Returns points and colours of a file that `write_ply` wrote; raises InputError for any other file."""
    content = Path(path).read_bytes() if Path(path).is_file() else b""
    count = next((int(number) for number in re.findall(rb"^element vertex (\d{1,9})$", content[:200], re.MULTILINE)), 0)
    header = _header(count)
    if not content.startswith(header) or len(content) != len(header) + count * VERTEX.itemsize:
        raise InputError(path, "", "no point cloud of a clip", "a .ply as the data steps write it", "write it again with complete_geometry")
    vertices = np.frombuffer(content, VERTEX, count, len(header))
    return vertices["xyz"].copy(), vertices["rgb"].copy()


def unproject(depth: NDArray[np.floating], intrinsics: NDArray[np.float64], c2w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns world points (h * w, 3) of a map (h, w) of distances along the view axis.

    intrinsics: (4,) normalised; c2w: (4, 4); pixel centres are at + 0.5
    """
    height, width = depth.shape
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    fx, fy, cx, cy = intrinsics
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1)
    return (rays * depth[..., None]).reshape(-1, 3) @ c2w[:3, :3].T + c2w[:3, 3]


def points_from_depth(clip: Clip, root: Path) -> tuple[Points, Colours]:
    """Returns points and colours of some frames of a clip with depth maps, thinned, in the world of the camera file."""
    cameras: Cameras = read_cameras(root / str(clip.camera))
    depth = clip_depth(clip, root)
    chosen = np.unique(np.linspace(0, len(depth) - 1, FRAMES).astype(int)).tolist()
    points, colours = [], []
    for index, frame in enumerate(iterate_frames(root / clip.video, 0, chosen[-1] + 1)):
        if index in chosen:
            points.append(unproject(depth[index].astype(np.float64), cameras.intrinsics[index], cameras.c2w[index]))
            size = depth.shape[2], depth.shape[1]
            colours.append(cv2.resize(frame, size, interpolation=cv2.INTER_AREA).reshape(-1, 3))
    return thinned(np.concatenate(points).astype(np.float32), np.concatenate(colours))


def thinned(points: Points, colours: Colours, limit: int = LIMIT) -> tuple[Points, Colours]:
    """Returns at most `limit` points and their colours: the first in each cell of the finest grid that leaves so few."""
    if len(points) <= limit:
        return points, colours
    low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max()) or 1.0
    cells, kept = 1024, np.arange(len(points))
    while cells > 1:
        _, kept = np.unique(np.floor((points - low) / extent * cells).astype(np.int64) @ [1 << 40, 1 << 20, 1], return_index=True)
        if len(kept) <= limit:
            break
        cells = cells * 3 // 4
    kept = np.sort(kept)[:limit]
    return points[kept], colours[kept]


def with_points(clip: Clip, root: Path, found: tuple[Points, Colours] | None = None) -> Clip:
    """Returns the clip with its point cloud written: the given one, or one from depth maps; unchanged if there is neither."""
    if found is None and clip.depth is not None and clip.camera is not None:
        found = points_from_depth(clip, root)
    if found is None or not len(found[0]):
        return clip
    from dataclasses import replace

    path = f"points/{clip.clip_id}.ply"
    write_ply(root / path, *thinned(*found))
    return replace(clip, points=path)
