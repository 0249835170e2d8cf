"""CLI command `apply splats`: from a clip, a video and a rollout to a scene file, and wrong use in one line."""

import json

import numpy as np
import pytest

from moworld.applications.splats.files import read_scene
from moworld.camera import Cameras, se3
from moworld.camera.formats import write_realestate10k
from moworld.video import write_video
from tests.moworld.data.folders import recorded_game
from tests.moworld.inference.worlds import served_world
from tests.moworld_ops.pipelines.command import Command

QUICK = ("--steps", 3, "--gaussians", 60, "--height", 32)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return Command(tmp_path, monkeypatch, capsys)


def test_a_clip_becomes_a_scene_in_map_units(command, tmp_path):
    done = command("apply", "splats", recorded_game(), "--clip", "map05-00", "--out", "scene.ply", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["units"] == "map units" and facts["frames"] == 97 and facts["start"] == "depth of the recording"
    scene = read_scene(tmp_path / "scene.ply")
    assert 1 < len(scene) == facts["gaussians"] <= 60 and b"comment units: map units" in (tmp_path / "scene.ply").read_bytes()[:200]
    assert 20 < float(scene.means[:, 2].abs().median()) < 3000


def test_a_video_with_cameras_and_a_rollout_become_splats(command, tmp_path):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "a.mp4", rng.integers(0, 255, (6, 32, 48, 3)).astype(np.uint8), 10)
    poses = se3.rigid(np.broadcast_to(np.eye(3), (6, 3, 3)), np.linspace([0, 0, 0], [1, 0, 0], 6))
    write_realestate10k(tmp_path / "a.txt", Cameras.from_c2w([0.6, 0.9, 0.5, 0.5], poses), "", 10)
    done = command("apply", "splats", "a.mp4", "--out", "scene.splat", *QUICK)
    assert done.returncode == 0 and "scene.splat: " in done.stdout and "along rays" in done.stdout, done.stderr
    assert (tmp_path / "scene.splat").stat().st_size % 32 == 0
    served_world(tmp_path / "codec").save(tmp_path / "model")
    done = command("apply", "splats", "model", "--actions", "w*8,l*4", "--out", "made.ply", *QUICK, "--degree", 1, "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and facts["units"] == "model units" and facts["frames"] >= 13 and read_scene(tmp_path / "made.ply").degree == 1


def test_wrong_use_is_one_line_and_status_2(command, tmp_path):
    clips = recorded_game()
    (tmp_path / "a.ply").write_bytes(b"no scene")
    write_video(tmp_path / "b.mp4", np.zeros((6, 32, 48, 3), np.uint8), 10)
    cases = {
        ("apply", "splats", clips): "--out: found none",
        ("apply", "splats", clips, "--out", "scene.obj"): "NAME.ply or NAME.splat",
        ("apply", "splats", clips, "--clip", "nowhere", "--out", "s.ply"): "map01-00, map05-00",
        ("apply", "splats", "b.mp4", "--out", "s.ply"): "no camera file",
        ("apply", "splats", "b.mp4", "--cameras", "no.txt", "--out", "s.ply"): "no.txt",
        ("apply", "splats", "nothing-here", "--out", "s.ply"): "nothing-here",
        ("apply", "splats", "a.ply"): "add --view",
        ("apply", "splats", "a.ply", "--view"): "no scene",
        ("evaluate", "one", "two", "--protocol", "splats"): "",
    }
    for arguments, message in cases.items():
        done = command(*arguments)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and message in done.stderr, (arguments, done.stderr)
    assert not list(tmp_path.glob("s.ply*"))
