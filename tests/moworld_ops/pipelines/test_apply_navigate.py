"""CLI command `apply navigate` and protocol navigate: a walk to a goal, a picture as goal, training of the head, and wrong use in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from moworld.applications.navigation.head import NavigationHead
from moworld.video import video_info
from tests.moworld.inference.worlds import served_world
from tests.moworld_ops.pipelines.command import Command

QUICK = ("--depth", 1, "--chunks", 1)
START, GOAL = "-2564,36,30", "-2407,-35,30"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return Command(tmp_path, monkeypatch, capsys)


@pytest.fixture
def model(tmp_path):
    served_world(tmp_path / "codec", chunk_latents=3).save(tmp_path / "model")
    return tmp_path / "model"


def test_a_walk_to_a_goal_is_written_with_its_verdict(command, model, tmp_path):
    done = command("apply", "navigate", model, "--level", "MAP07", "--start", START, "--goal", GOAL, *QUICK, "--json")
    assert done.returncode == 0 and "no head is trained" in done.stderr, done.stderr
    facts = json.loads(done.stdout)
    assert facts["level"] == "MAP07" and facts["goal"][:2] == [-2407, -35] and facts["solved"] in (True, False) and facts["chunks"] <= 1
    folder = tmp_path / "navigation"
    assert sorted(path.name for path in folder.iterdir()) == ["goal.png", "map.png", "navigation.json", "walk.mp4"]
    assert np.asarray(Image.open(folder / "map.png")).shape[2] == 3 and json.loads((folder / "navigation.json").read_text()) == facts
    NavigationHead((16, 32), 8).save(tmp_path / "home" / "navigation" / "head")
    done = command(
        "apply", "navigate", model, "--level", "MAP07", "--start", START, "--goal-image", "navigation/goal.png", *QUICK, "--planner", "cem"
    )
    assert done.returncode == 0 and "no verdict" in done.stdout and "scored by the head" in done.stderr, done.stderr
    assert video_info(folder / "walk.mp4").num_frames in (1, 13)


def test_training_writes_the_head_that_later_commands_use(command, model, tmp_path):
    arguments = ("apply", "navigate", model, "--train", "--steps", 2, "--levels", 1)
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    head = NavigationHead.load(tmp_path / "home" / "navigation" / "head", (16, 32))
    assert facts["head"].endswith("navigation/head") and head.width == 32 and facts["frames"] > 0
    walks = sorted((tmp_path / "home" / "navigation" / "walks").iterdir())
    assert len(walks) == 2
    before = [path.stat().st_mtime_ns for path in walks]
    again = command(*arguments, "--json")
    assert json.loads(again.stdout) == facts and [path.stat().st_mtime_ns for path in walks] == before


def test_the_protocol_prints_its_tables(command, tmp_path):
    done = command("evaluate", "--protocol", "navigate", "--tasks", 1, "--seeds", 1, "--depth", 1)
    assert done.returncode == 0 and "engine as model, true distance" in done.stdout and "difference of pictures" in done.stdout, done.stderr
    assert (tmp_path / "navigate" / "sheets" / "0-0.png").is_file() and (tmp_path / "navigate" / "navigate.json").is_file()


def test_wrong_use_is_one_line_and_status_2(command, model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("")
    at = ("apply", "navigate", model, "--level", "MAP07")
    cases = {
        ("apply", "navigate", "nothing-here"): "nothing-here",
        (*at, "--planner", "guess"): "tree or cem",
        (*at, "--goal", GOAL): "--start",
        (*at, "--start", START): "--goal",
        (*at, "--start", "1,2", "--goal", GOAL): "X,Y,DEGREES",
        (*at, "--start", "nan,0,0", "--goal", GOAL): "numbers",
        (*at, "--start", START, "--goal", START): "goal farther away",
        (*at, "--start", "-100000,0,0", "--goal", GOAL): "where the player can stand",
        (*at, "--start", START, "--goal", GOAL, "--goal-image", "a.png"): "one of them",
        (*at, "--start", START, "--goal-image", "no.png"): "no.png",
        ("apply", "navigate", model, "--level", "MAP99"): "MAP01 to MAP32",
        (*at, "--head", "no-head"): "--train",
        (*at, "--out", "full"): "a directory with other files",
        ("evaluate", "one", "two", "--protocol", "navigate"): "",
        ("evaluate", "--protocol", "navigate", "--planner", "guess"): "tree or cem",
        ("evaluate", "--protocol", "navigate", "--head", "no-head"): "--train",
    }
    for arguments, message in cases.items():
        done = command(*arguments)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) <= 2 and message in done.stderr, (arguments, done.stderr)
    assert not (tmp_path / "navigation").exists() and not list((tmp_path / "navigate").rglob("*.json"))
