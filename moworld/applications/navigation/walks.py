"""Walks through training and validation levels, recorded once and stored by level: what the head learns from."""

from pathlib import Path

import numpy as np

from moworld.applications.navigation.settings import HeadSettings
from moworld.data.game_maps import game_maps
from moworld.data.game_walks import Level, SeenWalk
from moworld.data.settings import GameSettings
from moworld.errors import InputError
from moworld.files import atomic_write


def recorded_walks(
    folder: Path, settings: HeadSettings, size_hw: tuple[int, int], yaw_degrees: float, seed: int, split: str
) -> list[SeenWalk]:
    """Returns walks through levels of a split, without depth. A level that `folder` already has is read; the others are recorded.

    The walks are a function of settings, size, speed and seed. A level with fewer walks than wanted gives those that it has.
    Raises InputError if no level of the split has a walk.
    """
    from tqdm import tqdm

    names = game_maps()[split][: settings.levels]
    found: list[SeenWalk] = []
    for name in tqdm(names, desc=f"walks through levels ({split})", unit="level", disable=None):
        key = f"{name}-{size_hw[0]}x{size_hw[1]}-{settings.walks}x{settings.frames}-{yaw_degrees:g}-{seed}"
        stored = folder / f"{key}.npz"
        if not stored.is_file():
            walks = _record(name, settings, size_hw, yaw_degrees, seed)
            frames, c2w = (np.stack([getattr(walk, part) for walk in walks]) if walks else np.zeros(0) for part in ("frames", "c2w"))
            with atomic_write(stored) as stream:
                np.savez(stream, frames=frames, c2w=c2w)
        with np.load(stored, allow_pickle=False) as arrays:
            found += [SeenWalk(name, *both, np.zeros((0, 0, 0), np.float32)) for both in zip(arrays["frames"], arrays["c2w"], strict=True)]
    if not found:
        raise InputError("navigation", split, "no walk", f"walks of {settings.frames} frames", "shorten `frames`")
    return found


def _record(name: str, settings: HeadSettings, size_hw: tuple[int, int], yaw_degrees: float, seed: int) -> list[SeenWalk]:
    rng, game = np.random.default_rng([seed, 5, *name.encode()]), GameSettings.model_validate({"yaw_degrees_per_frame": yaw_degrees})
    walks: list[SeenWalk] = []
    with Level(name, game, size_hw) as level:
        for _ in range(settings.walks):
            try:
                start, actions = level.planned(settings.frames, rng)
            except InputError:  # a dark or narrow level
                break
            walks.append(level.walk(start, actions))
    return walks
