"""Step `collect`: writes a complete clips folder, or fails with one line and writes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from moworld.errors import InputError
from moworld.files import read_json, sha256_tree
from moworld_ops.components.collect.step import collect
from moworld_ops.components.platform.context import CONTEXT, StepContext
from tests.moworld.data.folders import verified


def test_game_scenes_become_a_verified_clips_folder(tmp_path: Path):
    settings = {"game": {"train_maps": ["MAP04"], "train_episodes_per_map": 1, "frames_per_episode": 17, "workers": 1}}
    summary = collect(str(tmp_path / "clips"), settings, seed=1)
    clips = verified(tmp_path / "clips")
    assert summary["clips"] == len(clips) == 1 and summary["frames"] == 17 and summary["splits"] == {"train": 1}
    assert read_json(tmp_path / "clips/summary.json") == summary


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"heigth": 64}, "heigth"),
        ({"game": {"fps": -1}}, r"game\.fps"),
        ({"height": 60}, "height"),
        ({"game": {"train_maps": ["MAP77"]}}, "MAP77"),
    ],
)
def test_settings_that_are_wrong_name_their_field_and_write_nothing(tmp_path: Path, settings, field: str):
    with pytest.raises(InputError, match=field):
        collect(str(tmp_path / "clips"), settings, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_levels_without_a_required_split_are_refused_before_anything_is_recorded(tmp_path: Path):
    with pytest.raises(InputError, match=r"data: split held_out: found no clip \(train 1\)"):
        collect(str(tmp_path / "clips"), {"game": {}}, 1, ["train", "held_out"])


COLLECTING = """
import sys
from moworld_ops.components.collect.step import collect
game = {"train_maps": ["MAP04", "MAP05"], "train_episodes_per_map": 3, "frames_per_episode": 33, "workers": 1}
collect(sys.argv[1], {"game": game}, seed=1)
"""


def episodes(run: Path) -> dict[Path, int]:
    """When each episode that the run keeps was recorded."""
    return {path: path.stat().st_mtime_ns for path in (run / "checkpoints/collect").glob("*/[!.]*/episode.json")}


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_recording_resumes_at_its_episode(tmp_path: Path, kills: int):
    def started(name: str) -> subprocess.Popen:
        place = {CONTEXT: StepContext(step="collect", folder=tmp_path / name).text()}
        arguments = [sys.executable, "-c", COLLECTING, str(tmp_path / name / "clips")]
        return subprocess.Popen(arguments, env=os.environ | place, stderr=subprocess.DEVNULL)

    begun = time.monotonic()
    assert started("whole").wait() == 0
    seconds, generator = time.monotonic() - begun, np.random.default_rng(0)
    whole = sha256_tree(tmp_path / "whole/clips")
    recorded: dict[Path, int] = {}
    for _ in range(kills):
        process = started("killed")
        time.sleep(seconds * generator.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert episodes(tmp_path / "killed").items() >= recorded.items()  # none is recorded twice
        recorded = episodes(tmp_path / "killed")
        assert not (tmp_path / "killed/clips").exists() or sha256_tree(tmp_path / "killed/clips") == whole  # whole or absent
    assert started("killed").wait() == 0
    assert recorded and episodes(tmp_path / "killed").items() >= recorded.items() and len(episodes(tmp_path / "killed")) == 6
    assert sha256_tree(tmp_path / "killed/clips") == whole
    assert [clip.clip_id for clip in verified(tmp_path / "killed/clips")] == [
        f"map0{level}-0{number}" for level in (4, 5) for number in range(3)
    ]


def test_other_settings_record_again_and_the_schedule_alone_does_not(tmp_path: Path):
    from moworld.data.game import GameSettings, record_game

    def record(**settings: object) -> int:
        chosen = {"train_maps": ("MAP04",), "train_episodes_per_map": 1, "frames_per_episode": 17, "workers": 1} | settings
        clips, _ = record_game(tmp_path / "clips" / str(len(list(tmp_path.rglob("videos")))), GameSettings(**chosen), 1, tmp_path / "kept")
        assert all(clip.split == "train" for clip in clips)
        return len(list((tmp_path / "kept").glob("*/*/episode.json")))

    assert [record(), record()] == [1, 1]
    assert record(workers=2) == 1
    assert record(train_episodes_per_map=2) == 2
    assert record(frames_per_episode=21) == 3
