"""Reconstructions of one scene in worlds of their own: brought into one by Sim(3), from the pictures that they share."""

import numpy as np
from numpy.typing import NDArray

from moworld.camera.se3 import rotation_angle_degrees

Array = NDArray[np.float64]
MIN_SHARED = 3  # pictures that two reconstructions must share to be joined


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
