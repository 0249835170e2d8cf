"""Places that are seen again close a trajectory; two places that share a texture say nothing of it."""

import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.data.clips import Clip
from moworld.data.duplicates import frame_hash
from moworld.data.verification import SAME_PLACE_BITS, SURE_MATCHES, GeometrySettings, loop_error, match_features
from moworld.files import sha256_file
from moworld.video import write_video
from tests.moworld.data.test_following import HEIGHT, WIDTH, noise

SETTINGS, TURN, SHIFT = GeometrySettings(), 30, 8  # frames out, as many back; pixels a frame along a wall at depth 1


def filmed(folder, pictures: list[np.ndarray]) -> Clip:
    (folder / "videos").mkdir(parents=True)
    write_video(folder / "videos/a.mp4", [np.repeat(picture[..., None], 3, axis=2) for picture in pictures], 10.0)
    return Clip("a", "video", "a", "train", len(pictures), 10.0, HEIGHT, WIDTH, "videos/a.mp4", sha256_file(folder / "videos/a.mp4"))


def there_and_back(folder) -> tuple[Clip, np.ndarray]:
    """A camera slides along a wall and back: the clip, and c2w (61, 4, 4)."""
    wall = noise((HEIGHT, WIDTH + TURN * SHIFT), 250, (4, 40), 0)
    places = [*range(TURN), *range(TURN, -1, -1)]
    c2w = np.tile(np.eye(4), (len(places), 1, 1))
    c2w[:, 0, 3] = np.array(places) * SHIFT / WIDTH  # the focal length is the width
    return filmed(folder, [wall[:, t * SHIFT : t * SHIFT + WIDTH] for t in places]), c2w


def cameras(c2w: np.ndarray) -> Cameras:
    return Cameras.from_c2w([1.0, WIDTH / HEIGHT, 0.5, 0.5], c2w)


def test_a_trajectory_that_comes_back_closes(tmp_path):
    clip, c2w = there_and_back(tmp_path)
    error = loop_error(clip, tmp_path, cameras(c2w), SETTINGS)
    assert error is not None and error < 0.5


@pytest.mark.parametrize("degrees", [2.0, 5.0])
def test_a_trajectory_that_drifted_does_not(tmp_path, degrees):
    clip, c2w = there_and_back(tmp_path)
    for number in range(len(c2w)):
        angle = np.radians(degrees) * number / (len(c2w) - 1)
        c2w[number, 1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    error = loop_error(clip, tmp_path, cameras(c2w), SETTINGS)
    assert error is not None and error == pytest.approx(WIDTH * np.tan(np.radians(degrees)), rel=0.3)


def test_two_places_that_share_a_texture_are_not_one_place(tmp_path):
    """Two corners of one layout, with a fine texture at the left in one and at the right in the other, seen from far apart."""
    layout, texture = noise((HEIGHT, WIDTH), 250, (80,), 8), noise((140, 140), 50, (2,), 1).astype(int) - 127
    first, second = layout.astype(int), layout.astype(int)
    first[50:190, 10:150] += texture
    second[50:190, 170:310] += texture
    first, second = (np.clip(one, 0, 255).astype(np.uint8) for one in (first, second))
    hashes = [frame_hash(np.repeat(one[..., None], 3, axis=2)) for one in (first, second)]
    assert np.unpackbits(hashes[0] ^ hashes[1]).sum() <= SAME_PLACE_BITS
    matched = match_features(np.repeat(first[..., None], 3, 2), np.repeat(second[..., None], 3, 2), SETTINGS.features)
    assert matched is not None and len(matched[0]) >= SURE_MATCHES
    c2w = np.tile(np.eye(4), (40, 1, 1))
    c2w[:, 0, 3] = c2w[:, 1, 3] = np.linspace(0, 5, 40)
    clip = filmed(tmp_path, [first] * 10 + [noise((HEIGHT, WIDTH), 200, (40,), 9)] * 20 + [second] * 10)
    assert loop_error(clip, tmp_path, cameras(c2w), SETTINGS) is None
