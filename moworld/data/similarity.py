"""Joins reconstructions of one scene into one world by Sim(3), estimated from the images that they share."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from moworld.camera.se3 import invert, rigid, rotation_angle_degrees

Array = NDArray[np.float64]
MIN_SHARED = 3  # images that two reconstructions must share to be joined


def join(models: list[dict[int, Array]]) -> list[dict[int, tuple[float, Array]]]:
    """Returns groups of models in one world each: model index -> scale and rigid motion (4, 4) into the world of the group's first model.

    Greedy, largest first. Two models are joined if their shared images agree on one Sim(3) (`similarity`) and this adds images:
    a small model inside a large one is usually what was abandoned before, often with wrong intrinsics and points.
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
                    world = {number: transform_pose(pose, *found) for number, pose in models[other].items()} | world
                    grown = True
        groups.append(group)
    return groups


def similarity(source: dict[int, Array], target: dict[int, Array]) -> tuple[float, Array] | None:
    """Returns scale and rigid motion (4, 4) from the source's world to the target's, or None if the shared images do not determine it.

    source, target: w2c (4, 4) by image number. Rotations are averaged, so a straight path, whose centres leave the rotation about it
    undetermined, is handled as well.
    """
    shared = sorted(set(source) & set(target))
    if len(shared) < MIN_SHARED:
        return None
    theirs, ours = (np.linalg.inv(np.stack([poses[n] for n in shared])) for poses in (source, target))
    rotation = Rotation.from_matrix(ours[:, :3, :3] @ np.swapaxes(theirs[:, :3, :3], 1, 2)).mean().as_matrix()
    apart, goal = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0) for poses in (theirs, ours))
    spread = float((apart**2).sum())
    scale = float(((apart @ rotation.T) * goal).sum()) / spread if spread > 1e-12 else 0.0
    if scale <= 0:
        return None
    turned = rotation_angle_degrees(rotation @ theirs[:, :3, :3] @ np.swapaxes(ours[:, :3, :3], 1, 2))
    missed = np.linalg.norm(scale * apart @ rotation.T - goal, axis=1)
    if np.median(turned) > 3 or np.median(missed) > 0.2 * np.sqrt((goal**2).sum(axis=1).mean()):
        return None
    return scale, rigid(rotation, ours[:, :3, 3].mean(axis=0) - scale * rotation @ theirs[:, :3, 3].mean(axis=0))


def transform_pose(w2c: Array, scale: float, motion: Array) -> Array:
    """Returns a w2c pose after its world is transformed by a scale and a rigid motion (4, 4)."""
    c2w = np.linalg.inv(w2c)
    return invert(rigid(motion[:3, :3] @ c2w[:3, :3], scale * motion[:3, :3] @ c2w[:3, 3] + motion[:3, 3]))
