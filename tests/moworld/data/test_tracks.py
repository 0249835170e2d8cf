"""Tracked points: repeating textures do not mislead them, and no track crosses a scene change."""

import cv2
import numpy as np
import pytest

from moworld.data.tracks import Observations, follow

SHIFT, PERIOD = 34, 20  # pixels per image; the nearest repeat is 6 pixels in the other direction


def noise(size_hw: tuple[int, int], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    layers = [cv2.resize(generator.uniform(0, 127, (size_hw[0] // n, size_hw[1] // n)), size_hw[::-1]) for n in (4, 16)]
    return np.sum(layers, axis=0).astype(np.uint8)


def sliding(fence: bool, pictures: int = 5) -> list[tuple[int, np.ndarray]]:
    """A wall that slides by SHIFT pixels a picture; in a fence of it, which fills two thirds of the view, every PERIOD pixels look alike."""
    wall = noise((240, 560), 0)
    if fence:
        wall[40:200] = np.tile(noise((160, PERIOD), 1), (1, 28))
    return [(number, np.repeat(wall[:, number * SHIFT : number * SHIFT + 320, None], 3, axis=2)) for number in range(pictures)]


def steps(sights: dict[int, Observations], first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the points were that both pictures show, and how they moved."""
    _, one, other = np.intersect1d(sights[first].ids, sights[second].ids, assume_unique=True, return_indices=True)
    return sights[first].points[one], sights[second].points[other] - sights[first].points[one]


@pytest.mark.parametrize("fence", [False, True])
def test_points_of_a_texture_that_repeats_go_where_the_rest_of_the_picture_goes(fence: bool):
    sights = follow(sliding(fence), set(), features=1000)
    places, moved = steps(sights, 0, 4)
    on_fence = (places[:, 1] > 55) & (places[:, 1] < 185)
    assert on_fence.sum() > 50 and (~on_fence).sum() > 50
    np.testing.assert_allclose(np.median(moved[on_fence], axis=0), [-4 * SHIFT, 0], atol=0.1)
    assert (np.linalg.norm(moved - [-4 * SHIFT, 0], axis=1) < 1).mean() > 0.9  # which features are found depends a little on the number of threads


def test_wanted_pictures_show_described_points_as_well_and_every_id_once():
    sights = follow(sliding(False), {0, 3}, features=300)
    plain = follow(sliding(False), set(), features=300)
    for number, sight in sights.items():
        assert len(set(sight.ids.tolist())) == len(sight.ids) == len(sight.points)
        assert (len(sight.ids) - len(plain[number].ids) in range(200, 310)) == (number in {0, 3})
    assert all(np.array_equal(sights[2].ids, again[2].ids) for again in (plain, follow(sliding(False), set(), features=300)))


def test_nothing_is_followed_over_a_change_of_scene_or_into_a_blank_picture():
    scenes = [
        (0, sliding(False)[0][1]),
        (1, np.repeat(noise((240, 320), 9)[..., None], 3, axis=2)),
        (2, np.full((240, 320, 3), 90, np.uint8)),
    ]
    sights = follow(scenes, {0, 1, 2}, features=300)
    assert len(steps(sights, 0, 1)[0]) < 15 and len(sights[2].ids) == 0
