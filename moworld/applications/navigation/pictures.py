"""Pictures of navigation: the level from above with plans and what the player did, and the frames that it saw."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moworld.applications.navigation.tasks import Task
from moworld.data.game_map import CELL, GameMap
from moworld.files import atomic_write

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
PIXELS = 5  # of a cell
MARGIN = 12  # cells around what is shown
COLOURS = {
    "model": (214, 39, 40), "blind": (148, 103, 189), "straight": (127, 127, 127), "random": (188, 189, 34), "head": (255, 127, 14),
    "engine": (31, 119, 180), "exact": (44, 160, 44),
}  # fmt: skip
PLAN = (250, 170, 170)


def map_picture(level: GameMap, task: Task, paths: Mapping[str, Array], plans: Sequence[Array] = ()) -> Frames:
    """Returns the level around a task from above (H, W, 3), north up: floor light, walls dark, the recorded walk dotted.

    paths: positions (T, 2) by the names of COLOURS; plans: positions (T, 2) of plans, drawn faintly
    A ring is the start, a disc the goal, each with a stroke in its direction; a cross is the end of a path.
    """
    everything = np.concatenate([task.reference, *paths.values(), *plans])
    columns, rows = level.cell(*everything.T)
    height, width = level.clearance.shape
    left, right = max(0, int(columns.min()) - MARGIN), min(width, int(columns.max()) + MARGIN)
    low, high = max(0, int(rows.min()) - MARGIN), min(height, int(rows.max()) + MARGIN)
    floor = np.where(level.clearance >= 16, 245, np.where(level.clearance > 0, 215, 90)).astype(np.uint8)[low:high, left:right]
    picture = np.repeat(np.repeat(np.repeat(floor[..., None], 3, axis=2), PIXELS, axis=0), PIXELS, axis=1)
    origin = level.origin + CELL * np.array([left, low])

    def pixels(points: Array) -> NDArray[np.int32]:
        return np.rint((np.asarray(points)[..., :2] - origin) / CELL * PIXELS).astype(np.int32)

    for plan in plans:
        cv2.polylines(picture, [pixels(plan)], False, PLAN, 1, cv2.LINE_AA)
    for point in pixels(task.reference)[::3]:
        cv2.circle(picture, point.tolist(), 1, (0, 0, 0), -1)
    for name, path in paths.items():
        cv2.polylines(picture, [pixels(path)], False, COLOURS[name], 2, cv2.LINE_AA)
        cv2.drawMarker(picture, pixels(path[-1]).tolist(), COLOURS[name], cv2.MARKER_TILTED_CROSS, 10, 2)
    for place, filled in ((task.start, 2), (task.goal, -1)):
        if place is None:
            continue
        x, y, angle = place
        ahead = np.array([x, y]) + 40 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        cv2.circle(picture, pixels(np.array([x, y])).tolist(), 6, (0, 0, 0), filled, cv2.LINE_AA)
        cv2.line(picture, pixels(np.array([x, y])).tolist(), pixels(ahead).tolist(), (0, 0, 0), 2, cv2.LINE_AA)
    return np.ascontiguousarray(picture[::-1])


def write_png(path: Path, picture: Frames) -> None:
    """Writes a picture (H, W, 3) atomically."""
    with atomic_write(path) as stream:
        Image.fromarray(picture).save(stream, "PNG")


def strip(frames: Sequence[Frames], scale: int = 2) -> Frames:
    """Returns frames of one size side by side, enlarged, with white gaps."""
    padded = [np.pad(frame.repeat(scale, axis=0).repeat(scale, axis=1), ((0, 0), (0, 4), (0, 0)), constant_values=255) for frame in frames]
    return np.concatenate(padded, axis=1)
