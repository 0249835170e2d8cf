"""When a world counts as far from its first picture."""

import numpy as np

from moworld.inference.player.drift import CHUNKS, Drift
from tests.moworld.inference.worlds import picture


def chunk(frame: np.ndarray) -> np.ndarray:
    return np.stack([frame] * 4)


def test_a_world_that_looks_as_it_began_has_not_drifted_and_one_that_faded_has():
    first = picture(40, 64)
    same, faded, red = Drift(chunk(first)), Drift(chunk(first)), Drift(chunk(first // 2 + 60))
    for _ in range(CHUNKS):
        same.add(chunk(picture(40, 64, seed=1)))
        faded.add(chunk((first // 4 + 100).astype(np.uint8)))
        red.add(chunk(np.stack([first[..., 0], first[..., 1] // 8, first[..., 2] // 8], -1)))
    assert same.value < 0.1 < 1 < min(faded.value, red.value)


def test_a_view_of_one_wall_is_no_drift_and_a_world_that_comes_back_is_near_again():
    first = picture(40, 64)
    drift = Drift(chunk(first))
    drift.add(chunk(np.full_like(first, 90)))
    assert drift.value == 0
    for _ in range(CHUNKS):
        drift.add(chunk(np.full_like(first, 90)))
    assert drift.value > 1
    for _ in range(CHUNKS):
        drift.add(chunk(first))
    assert drift.value < 0.1
