"""A textured room, ray cast exactly: frames of pinhole cameras for tests of camera verification."""

import cv2
import numpy as np
from numpy.typing import NDArray

LOW, HIGH = np.array([-5.0, -2.5, -5.0]), np.array([5.0, 2.5, 40.0])
CELLS, PER_UNIT = 1024, 120


def textures() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    made = []
    for _ in range(6):
        layers = (generator.uniform(0, weight, (size, size, 3)) for size, weight in ((16, 90), (64, 90), (256, 70)))
        made.append(sum(cv2.resize(layer, (CELLS, CELLS), interpolation=cv2.INTER_CUBIC) for layer in layers).clip(0, 255).astype(np.uint8))
    return made


def render(c2w: NDArray[np.float64], lens: list[float], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns frames (T, H, W, 3) uint8 of poses (T, 4, 4). lens: fx, fy, cx, cy in pixels."""
    walls, (height, width) = textures(), size_hw
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - lens[2]) / lens[0], (v - lens[3]) / lens[1], np.ones_like(u)], -1).reshape(-1, 3)
    frames = []
    for pose in c2w:
        directions, origin = rays @ pose[:3, :3].T, pose[:3, 3]
        with np.errstate(divide="ignore"):
            distances = np.where(directions > 0, (HIGH - origin) / directions, (LOW - origin) / directions)
        axis = distances.argmin(axis=1)
        points = origin + directions * distances.min(axis=1)[:, None]
        picture = np.zeros((height * width, 3), np.uint8)
        for wall in range(6):
            here = (axis == wall // 2) & ((directions[:, wall // 2] > 0) == bool(wall % 2))
            x, y = (points[here][:, other] * PER_UNIT % CELLS for other in range(3) if other != wall // 2)
            picture[here] = walls[wall][y.astype(int) % CELLS, x.astype(int) % CELLS]
        frames.append(cv2.GaussianBlur(picture.reshape(height, width, 3), (3, 3), 0))
    return np.stack(frames)


def walk(kind: str, length: int = 33) -> NDArray[np.float64]:
    """Returns poses (T, 4, 4) camera to world of a motion: forward, strafe, turn, curve."""
    from scipy.spatial.transform import Rotation

    time = np.arange(length)
    c2w = np.tile(np.eye(4), (length, 1, 1))
    if kind == "forward":
        c2w[:, 2, 3] = 0.12 * time
    elif kind == "strafe":
        c2w[:, 0, 3] = -2 + 0.05 * time
    else:
        c2w[:, :3, :3] = Rotation.from_rotvec(np.outer(-15 + 0.9 * time, [0, 1, 0]), degrees=True).as_matrix()
    if kind == "curve":
        c2w[:, :3, 3] = np.column_stack([-1.5 + 0.05 * time, 0.1 * np.sin(time / 9), 0.06 * time])
    return c2w
