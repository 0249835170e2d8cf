"""Game scenes: exact cameras, walks that follow their actions, and equal bytes for equal seeds."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from pydantic import ValidationError

from moworld.camera import read_cameras
from moworld.data.game import Engine, GameSettings, record_game, wad_of
from moworld.data.game_camera import MAX_LOOK, engine_c2w, engine_intrinsics
from moworld.data.game_map import GameMap, Walker
from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.video import read_frames
from tests.moworld.worlds import controls_from_c2w

SETTINGS = GameSettings(train_maps=("MAP04",), held_out_maps=("MAP21",), train_episodes_per_map=1, frames_per_episode=33, workers=1)


@pytest.fixture(scope="module", params=[0.0, 0.6], ids=["level", "looking up and down"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("game")
    clips, summary = record_game(folder, SETTINGS.model_copy(update={"look_share": request.param}), seed=3)
    return folder, {clip.split: clip for clip in clips}, summary


def test_an_episode_has_its_files_in_step(recording):
    folder, clips, summary = recording
    assert set(clips) == {"train", "held_out"} and summary["frames"] == 66
    for clip in clips.values():
        assert clip.num_frames == len(read_frames(folder / clip.video)) == len(read_cameras(folder / clip.camera)) == 33
        if clip.depth is not None:
            assert np.load(folder / clip.depth)["depth"].shape == (33, 60, 80)
        assert len(json.loads((folder / clip.actions).read_text())) == 32
        assert json.loads((folder / clip.scene_facts).read_text())["map"] == clip.scene
        assert summary["walks"][clip.clip_id]["brightness"] > SETTINGS.min_brightness


def test_engines_find_their_directory_made_in_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ViZDoom ends a process that finds `_vizdoom` made between its look and its own attempt to make it."""
    monkeypatch.chdir(tmp_path)
    engine, made = Engine("MAP04", SETTINGS, 1), list[bool]()
    engine.game = Mock(init=lambda: made.append((tmp_path / "_vizdoom").is_dir()))
    with engine:
        assert made == [True]


def test_poses_move_as_the_actions_say(recording):
    folder, clips, _ = recording
    for clip in clips.values():
        cameras = read_cameras(folder / clip.camera)
        actions = json.loads((folder / clip.actions).read_text())
        flat = cameras.c2w.copy()
        flat[:, 2, 3] = 0  # stairs aside
        found = controls_from_c2w(flat, step=SETTINGS.units_per_frame, degrees=SETTINGS.yaw_degrees_per_frame)
        assert found == [frozenset(action) for action in actions]
        assert clip.translation_scale == pytest.approx(54 * SETTINGS.units_per_frame)


def test_looks_up_and_down_only_where_the_settings_say_so(recording, request):
    folder, clips, _ = recording
    pitch = np.degrees(np.concatenate([np.arcsin(read_cameras(folder / clip.camera).c2w[:, 2, 2]) for clip in clips.values()]))
    looking = "looking" in request.node.name
    assert (np.abs(pitch) > 6).mean() > 0.2 if looking else np.abs(pitch).max() < 0.1
    assert np.abs(pitch).max() < MAX_LOOK + 0.1


def test_a_picture_that_looks_up_shows_what_the_level_one_shows_along_the_same_rays():
    with Engine("MAP01", SETTINGS.model_copy(update={"look_share": 0.5}), 3) as engine:
        x, y, _, angle, *_ = engine.pose()
        level, *others = (engine.image(engine.render(x, y, angle, up)).astype(float) for up in (0, 12, -15))
    height, width = level.shape[:2]
    fx, fy, cx, cy = engine_intrinsics(width, height) * [width, height, width, height]
    for picture, up in zip(others, (12, -15), strict=True):
        rotation = engine_c2w(0, 0, 0, 0)[:3, :3].T @ engine_c2w(0, 0, 0, 0, -up)[:3, :3]
        v, u = np.meshgrid(np.arange(0, height, 2), np.arange(0, width, 2), indexing="ij")
        rays = np.stack([(u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, np.ones(u.shape)], axis=-1) @ rotation.T
        columns, rows = (np.floor(rays[..., i] / rays[..., 2] * f + c).astype(int) for i, f, c in ((0, fx, cx), (1, fy, cy)))
        seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        apart = np.abs(picture[v, u][seen] - level[rows[seen], columns[seen]]).mean()
        assert seen.mean() > 0.5 and apart < 0.35 * np.abs(picture - level).mean()


def test_depth_of_one_frame_reprojects_onto_the_pixels_of_another(recording):
    folder, clips, _ = recording
    if any(clip.depth is None for clip in clips.values()):
        pytest.skip("no depth with a pitched camera")
    ours, unmoved = [], []
    for clip in clips.values():
        frames = read_frames(folder / clip.video).astype(float).mean(axis=-1)
        depth, cameras = np.load(folder / clip.depth)["depth"].astype(float), read_cameras(folder / clip.camera)
        for one in range(0, 25, 6):
            ours.append(reprojection_error(frames, depth, cameras, one, one + 6))
            unmoved.append(np.abs(frames[one] - frames[one + 6]).mean())
    assert np.mean(ours) < 0.45 * np.mean(unmoved)


def test_the_floor_lies_an_eye_height_below_the_camera(recording):
    """Walks with yaw alone do not determine the vertical focal length; the depth of the flat floor under the camera does."""
    folder, clips, _ = recording
    if any(clip.depth is None for clip in clips.values()):
        pytest.skip("no depth with a pitched camera")
    ratios = []
    for clip in clips.values():
        depth = np.load(folder / clip.depth)["depth"][:, 44:58, 30:50].astype(float)
        row = (np.arange(44, 58) * 4 + 2 + 0.5) / clip.height
        _, fy, _, cy = read_cameras(folder / clip.camera).intrinsics[0]
        ratios.append(np.median(depth * ((row - cy) / fy)[None, :, None]) / 41.0)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.08)


def reprojection_error(frames, depth, cameras, one: int, other: int) -> float:
    """Mean difference of the pixels of `one` at the places where their depth puts them in `other`."""
    height, width = frames.shape[1:]
    v, u = np.meshgrid(np.arange(2, height, 4), np.arange(2, width, 4), indexing="ij")
    fx, fy, cx, cy = cameras.intrinsics[one] * [width, height, width, height]
    points = np.stack([(u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, np.ones(u.shape)], axis=-1) * depth[one][..., None]
    motion = cameras.w2c[other] @ cameras.c2w[one]
    x, y, z = np.moveaxis(points @ motion[:3, :3].T + motion[:3, 3], -1, 0)
    x, y = np.floor(x / z * fx + cx).astype(int), np.floor(y / z * fy + cy).astype(int)
    seen = (z > 10) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(np.abs(frames[one][v, u][seen] - frames[other][y[seen], x[seen]]).mean())


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(recording, request, tmp_path: Path):
    folder, _, _ = recording
    share = request.node.callspec.params["recording"]
    record_game(tmp_path, SETTINGS.model_copy(update={"workers": 2, "look_share": share}), seed=3)
    assert sha256_tree(tmp_path) == sha256_tree(folder)


def test_engine_axes_are_opencvs():
    east = engine_c2w(1, 2, 3, angle_degrees=0)
    np.testing.assert_allclose(east[:3], [[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3]], atol=1e-12)
    north_down = engine_c2w(0, 0, 0, angle_degrees=90, pitch_degrees=30)
    np.testing.assert_allclose(north_down[:3, 2], [0, np.cos(np.pi / 6), -0.5], atol=1e-12)
    assert np.linalg.det(north_down[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(engine_intrinsics(320, 240), [0.5, 0.8, 0.5, 0.5])


class Edge:
    def __init__(self, x1, y1, x2, y2, is_blocking=True):
        self.x1, self.y1, self.x2, self.y2, self.is_blocking = x1, y1, x2, y2, is_blocking


class Sector:
    floor_height, ceiling_height = 0.0, 128.0

    def __init__(self, lines):
        self.lines = lines


def test_walks_keep_clear_of_walls_and_objects_and_move_at_constant_speed():
    corners = [(0, 0), (1000, 0), (1000, 800), (0, 800)]
    sector = Sector([Edge(*a, *b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)])
    level = GameMap([sector], [(500.0, 400.0, 36.0)])
    assert level.view(100, 400, 0)[0] == pytest.approx(768, abs=80)
    walker = Walker(level, units_per_frame=10.0, yaw_degrees_per_frame=3.0)
    plan = walker.plan((200.0, 200.0, 45.0), 201, np.random.default_rng(0))
    assert plan is not None and plan.track.shape == (201, 3) and len(plan.actions) == 200
    x, y, angle = plan.track.T
    assert min(x.min(), y.min(), (1000 - x).min(), (800 - y).min()) > 24
    assert np.hypot(x - 500, y - 400).min() > 36 + 16
    steps = np.hypot(np.diff(x), np.diff(y))
    assert set(steps.round(6)) <= {0.0, 10.0} and (steps > 0).mean() >= 0.45
    assert set(np.abs(np.diff(angle)).round(6)) <= {0.0, 3.0}


def test_a_level_that_is_opened_again_shows_the_same_under_the_same_buttons():
    settings, seen = GameSettings.model_validate({}), []
    with Engine("MAP07", settings, 0) as engine:
        for _ in range(2):
            engine.restart()
            engine.render(-2020.0, 476.0, 210.0)
            for _ in range(24):
                engine.push(1.5, 50.0, 0.0)
            seen.append((engine.pose(), engine.image(engine.game.get_state())))
            engine.push(0.0, 0.0, 50.0)  # what is done now does not count after the restart
    (one, first), (two, second) = seen
    assert np.array_equal(one, two) and np.array_equal(first, second)
    assert np.hypot(*(one[:2] - [-2020, 476])) > 100 and (210 - one[3]) % 360 == pytest.approx(36, abs=0.1)


def test_levels_and_sizes_that_do_not_exist_are_refused():
    assert wad_of("MAP32") == "freedoom2.wad" and wad_of("E1M1") == "freedoom1.wad"
    for name in ("MAP33", "MAP1", "E5M1", "../MAP01"):
        with pytest.raises(InputError, match="MAP01 to MAP32"):
            wad_of(name)
    with pytest.raises(InputError, match="123x77"):
        Engine("MAP01", SETTINGS.model_copy(update={"width": 123, "height": 77}), seed=0)


def test_a_level_without_a_good_walk_says_why(tmp_path: Path):
    bright = SETTINGS.model_copy(update={"held_out_maps": (), "min_brightness": 250.0, "attempts": 3})
    with pytest.raises(InputError, match="3 dark"):
        record_game(tmp_path, bright, seed=0)


def test_a_level_with_fewer_good_walks_than_requested_gives_those_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from moworld.data import game

    settings, found = SETTINGS.model_copy(update={"held_out_maps": (), "train_episodes_per_map": 3}), game._attempts
    calls = iter((True, True, False))

    def attempts(*arguments):
        if next(calls):
            return found(*arguments)
        raise InputError("data.game", "MAP04", "no good walk", "a bright, open level", "take another level")

    monkeypatch.setattr(game, "_attempts", attempts)
    clips, summary = record_game(tmp_path, settings, seed=3)
    assert [clip.clip_id for clip in clips] == ["map04-00", "map04-01"] and summary["missing"] == {"MAP04": 1}


@pytest.mark.parametrize(
    "change", [{"frames_per_episode": 32}, {"held_out_maps": ("MAP04",)}, {"max_stretch_frames": 2}, {"unknown": 1}, {"fps": 0}]
)
def test_settings_that_contradict_themselves_are_refused(change):
    with pytest.raises(ValidationError):
        GameSettings.model_validate({"train_maps": ("MAP04",)} | change)
