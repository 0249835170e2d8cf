"""Tracked corners detect wrong cameras, also cameras that most features agree on."""

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from moworld.camera.cameras import Cameras
from moworld.camera.formats import write_realestate10k
from moworld.data.clips import Clip
from moworld.data.geometry import JumpLimits, complete_clip, followed_shares
from moworld.data.settings import GeometrySettings
from moworld.data.structure import Structure
from moworld.data.tracks import followed
from moworld.data.verification import verify_cameras
from moworld.files import sha256_file
from moworld.video import write_video
from moworld_ops.data_contracts.check import check_rows
from moworld_ops.data_contracts.load import load_contract

FRAMES, HEIGHT, WIDTH, SHIFT = 31, 240, 320, 4  # pixels a frame, along a wall at depth 1
BAND = 130  # rows
RULES = {"followed_share": "corners-go-where-cameras-say", "followed_share_lowest": "no-frames-whose-corners-go-elsewhere"}
SETTINGS, LIMITS = GeometrySettings(), JumpLimits(15.0, 12.0)


def noise(size_hw: tuple[int, int], contrast: float, cells: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    layers = [cv2.resize(generator.uniform(0, 1, (size_hw[0] // n, size_hw[1] // n)), size_hw[::-1]) for n in cells]
    return (127 + contrast * (np.mean(layers, axis=0) - 0.5)).astype(np.uint8)


def along_a_wall(folder, band: bool = False) -> tuple[Clip, Cameras]:
    """A camera slides along a dull wall by SHIFT pixels a frame. A band over half of the view, far richer in features, goes with it."""
    wall = noise((HEIGHT, WIDTH + FRAMES * SHIFT), 110, (4, 16), 0)
    pictures = [np.repeat(wall[:, t * SHIFT : t * SHIFT + WIDTH, None], 3, axis=2) for t in range(FRAMES)]
    if band:
        for picture in pictures:
            picture[:BAND] = noise((BAND, WIDTH), 250, (3,), 1)[..., None]
    (folder / "videos").mkdir(parents=True)
    write_video(folder / "videos/a.mp4", pictures, 10.0)
    clip = Clip("a", "video", "a", "train", FRAMES, 10.0, HEIGHT, WIDTH, "videos/a.mp4", sha256_file(folder / "videos/a.mp4"))
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, 0, 3] = np.arange(FRAMES) * SHIFT / WIDTH  # the focal length is the width
    return clip, Cameras.from_c2w([1.0, WIDTH / HEIGHT, 0.5, 0.5], c2w)


def with_frame_turned(cameras: Cameras, number: int, degrees: float) -> Cameras:
    angle, c2w = np.radians(degrees), np.array(cameras.c2w)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    c2w[number, :3, :3] = turn @ c2w[number, :3, :3]
    return Cameras.from_c2w(cameras.intrinsics[0], c2w)


def standing_from(cameras: Cameras, number: int) -> Cameras:
    c2w = np.array(cameras.c2w)
    c2w[number:] = c2w[number]
    return Cameras.from_c2w(cameras.intrinsics[0], c2w)


def finding(cameras: Cameras):
    """A reconstruction that found these cameras for each picture."""
    points, ones = np.array([[0, 0, 1], [0.1, 0, 1], [0, 0.1, 1]], np.float32), np.ones(3)
    lens = cameras.intrinsics[0] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    poses = dict(enumerate(np.array(cameras.w2c)))
    made = Structure(poses, lens, points, np.zeros((3, 3), np.uint8), ones, 3 * ones, ones, 0.001)
    return lambda images, scratch, settings: [made]


def broken_rules(clip: Clip) -> set[str]:
    """Returns the rules of tracked corners that the clip's row breaks."""
    report = check_rows([asdict(clip)], load_contract("geometry"))
    return {failure["rule"] for failure in report.failures} & set(RULES.values())


def test_right_recovered_cameras_keep_both_rules(tmp_path):
    clip, cameras = along_a_wall(tmp_path)
    (made,) = complete_clip(clip, tmp_path, SETTINGS, LIMITS, finding(cameras))
    assert made.followed_share > 0.98 and 0.95 < made.followed_share_lowest <= made.followed_share
    assert broken_rules(made) == set()


@pytest.mark.parametrize(
    ("wrong", "broken"),
    [
        (lambda cameras: with_frame_turned(cameras, 12, 3.0), {RULES["followed_share_lowest"]}),
        (lambda cameras: standing_from(cameras, 15), set(RULES.values())),
    ],
    ids=["one frame turned", "standing from the middle on"],
)
def test_wrong_recovered_cameras_break_them(tmp_path, wrong, broken):
    clip, cameras = along_a_wall(tmp_path)
    (made,) = complete_clip(clip, tmp_path, SETTINGS, LIMITS, finding(wrong(cameras)))
    assert broken <= broken_rules(made)
    assert made.followed_share_lowest < 0.1


def test_a_part_between_two_jumps_has_the_measure_of_the_whole_reconstruction(tmp_path):
    """The first of two parts is right: its own pairs keep the second rule, the mean does not."""
    clip, cameras = along_a_wall(tmp_path)
    c2w = np.array(standing_from(cameras, 13).c2w)
    c2w[13:, 2, 3] -= 1
    first, second = complete_clip(clip, tmp_path, SETTINGS, LIMITS, finding(Cameras.from_c2w(cameras.intrinsics[0], c2w)))
    assert (first.num_frames, second.num_frames) == (13, 18) and first.followed_share == second.followed_share < 0.5
    assert first.followed_share_lowest > 0.95 and broken_rules(first) == {RULES["followed_share"]}
    assert second.followed_share_lowest < 0.1


def test_features_that_confirm_each_other_do_not_hide_static_cameras(tmp_path):
    """Most features are those of a band that goes with the camera: by their own best model it never moved."""
    clip, cameras = along_a_wall(tmp_path, band=True)
    still = standing_from(cameras, 0)
    error, inliers = verify_cameras(clip, tmp_path, still, SETTINGS)
    assert error is not None and error < 0.5 and inliers is not None and inliers > 0.95
    share, lowest = followed_shares(clip, tmp_path, still, SETTINGS.gap)
    assert share is not None and share < 0.7 and lowest is not None and lowest < 0.7
    assert followed_shares(clip, tmp_path, cameras, SETTINGS.gap)[0] == pytest.approx(
        1, abs=0.02
    )  # along their lines, the band's place fits, too


def test_corners_of_either_motion_are_followed_where_no_geometry_of_two_views_has_both():
    """The upper half is static, the lower one rolls about the middle: a vote would drop one of them."""
    upper, wall = noise((HEIGHT, WIDTH), 250, (3,), 1), noise((HEIGHT, WIDTH), 110, (4, 16), 0)
    turns = [cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 2.0 * t, 1.0) for t in range(4)]
    pictures = [np.concatenate([upper[:BAND], cv2.warpAffine(wall, turn, (WIDTH, HEIGHT))[BAND:]]) for turn in turns]
    first, last = (points.astype(np.float64) for points in followed(pictures))
    rolled = np.linalg.norm(np.column_stack([first, np.ones(len(first))]) @ turns[-1].T - last, axis=1) < 1
    stood = np.linalg.norm(first - last, axis=1) < 1
    assert (stood & (first[:, 1] < BAND - 15)).sum() > 60 and (rolled & (first[:, 1] > BAND + 15)).sum() > 60


def test_given_cameras_leave_the_columns_empty(tmp_path):
    clip, cameras = along_a_wall(tmp_path)
    (tmp_path / "cameras").mkdir()
    write_realestate10k(tmp_path / "cameras/a.txt", standing_from(cameras, 15), fps=clip.fps)
    for origin in ("engine", "file"):
        given = replace(clip, camera="cameras/a.txt", camera_sha256=sha256_file(tmp_path / "cameras/a.txt"), camera_origin=origin)
        (made,) = complete_clip(given, tmp_path, SETTINGS, LIMITS)
        assert (made.followed_share, made.followed_share_lowest) == (None, None) and broken_rules(made) == set()


def test_pictures_without_corners_say_nothing(tmp_path):
    clip, cameras = along_a_wall(tmp_path)
    write_video(tmp_path / clip.video, [np.full((HEIGHT, WIDTH, 3), 90, np.uint8)] * FRAMES, 10.0)
    assert followed_shares(clip, tmp_path, cameras, SETTINGS.gap) == (None, None)
