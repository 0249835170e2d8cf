"""The step `collect`: a profile's section to a complete clips folder, or one line and nothing written."""

from pathlib import Path

import pytest

from components.collect.step import collect
from moworld.data.clips import verify
from moworld.errors import InputError
from moworld.files import read_json


def test_game_scenes_become_a_verified_clips_folder(tmp_path: Path):
    settings = {"game": {"train_maps": ["MAP04"], "train_episodes_per_map": 1, "frames_per_episode": 17, "workers": 1}}
    summary = collect(str(tmp_path / "clips"), settings, seed=1)
    clips = verify(tmp_path / "clips")
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
