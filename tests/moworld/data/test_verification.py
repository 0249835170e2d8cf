"""Matches have no distance under right cameras, at pixel centres. Places that are seen again close a trajectory; a shared texture does not."""

import numpy as np
import pytest
import torch

from moworld.camera.cameras import Cameras
from moworld.camera.rays import camera_directions
from moworld.data.clips import Clip
from moworld.data.duplicates import frame_hash
from moworld.data.verification import SAME_PLACE_BITS, SURE_MATCHES, GeometrySettings, camera_distances, loop_error, match_features
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


def rolled(degrees: float, step: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Returns c2w (2, 4, 4): a camera, and the same rolled about its view axis and moved."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, :2, :2], c2w[1, :3, 3] = [[cos, -sin], [sin, cos]], step
    return c2w


@pytest.mark.parametrize("step", [(0, 0, 0), (0.3, 0.1, 0.2)], ids=["roll", "roll and step"])
def test_matches_have_no_distance_under_the_rays_of_pixel_centres(step):
    """The points are those that the rays of `moworld.camera` meet; pixels are counted as OpenCV does."""
    c2w = rolled(180, step)
    given = Cameras.from_c2w([1.0, WIDTH / HEIGHT, 0.4, 0.6], c2w)
    pixels = np.array([(0, 0), (WIDTH - 1, 0), (10, HEIGHT - 1), (123, 45)])
    rays = camera_directions(torch.tensor(given.intrinsics[0]), HEIGHT, WIDTH).numpy()
    seen = rays[pixels[:, 1], pixels[:, 0]] * np.array([1.0, 2.0, 3.0, 4.0])[:, None]  # the first camera's axes are the world's
    there = (seen - c2w[1, :3, 3]) @ c2w[1, :3, :3]
    fx, fy, cx, cy = given.intrinsics[1]
    shares = np.column_stack([fx * there[:, 0] / there[:, 2] + cx, fy * there[:, 1] / there[:, 2] + cy])
    matched = shares * [WIDTH, HEIGHT] - 0.5  # pixel n covers n / WIDTH to (n + 1) / WIDTH
    assert camera_distances(pixels.astype(float), matched, given, 0, 1, (HEIGHT, WIDTH)) == pytest.approx(np.zeros(4), abs=1e-9)


def test_a_picture_upside_down_is_a_camera_rolled_by_half_a_turn():
    """Pixel corners would be 1.4 pixels away, and features without precise upscaling 0.7."""
    picture = np.repeat(noise((HEIGHT, WIDTH), 250, (4, 16), 0)[..., None], 3, axis=2)
    matched = match_features(picture, np.ascontiguousarray(picture[::-1, ::-1]), SETTINGS.features)
    assert matched is not None and len(matched[0]) > 50
    assert np.median(camera_distances(*matched, cameras(rolled(180)), 0, 1, (HEIGHT, WIDTH))) < 0.1


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
