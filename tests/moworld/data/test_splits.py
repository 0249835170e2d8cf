"""Splits by source: stable when footage is added, shared by all files of a source, and explicit where the profile names sources."""

import random
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from moworld.data.settings import DataSettings
from moworld.data.splits import assign_splits, require_splits, source_of
from moworld.errors import InputError

NAMES = [f"walk-{number}" for number in range(4000)]


def test_later_footage_moves_no_earlier_source_to_another_split():
    generator = random.Random(0)
    for seed in range(20):
        settings = DataSettings(held_out_share=0.3, validation_share=0.2, split_seed=seed)
        names = generator.sample(NAMES, 60)
        earlier, later = assign_splits(names[:20], settings), assign_splits(generator.sample(names, 60), settings)
        assert {name: later[name] for name in earlier} == earlier
        assert set(earlier.values()) == {"train", "validation", "held_out"}


def test_each_split_gets_its_share_and_the_seed_draws_others():
    settings = DataSettings(held_out_share=0.2, validation_share=0.1)
    found = assign_splits(NAMES, settings)
    counts = Counter(found.values())
    # 5 standard deviations of a binomial of 4000
    assert counts["held_out"] == pytest.approx(800, abs=127) and counts["validation"] == pytest.approx(400, abs=95)
    other = assign_splits(NAMES, settings.model_copy(update={"split_seed": 1}))
    assert sum(found[name] == other[name] for name in NAMES) / len(NAMES) == pytest.approx(0.2**2 + 0.1**2 + 0.7**2, abs=0.04)


def test_a_larger_share_only_takes_sources_from_training():
    before = assign_splits(NAMES, DataSettings(held_out_share=0.1, validation_share=0.1))
    after = assign_splits(NAMES, DataSettings(held_out_share=0.3, validation_share=0.1))
    moved = {(before[name], after[name]) for name in NAMES if before[name] != after[name]}
    assert moved == {("train", "held_out")}


def test_a_single_source_is_training_footage_whatever_its_name():
    assert {assign_splits([name], DataSettings(held_out_share=0.5))[name] for name in NAMES[:100]} == {"train"}


def test_named_sources_get_their_split_and_no_share_of_the_others_is_taken():
    settings = DataSettings(held_out_videos=("walk-7",), validation_videos=("walk-1", "walk-2"))
    found = assign_splits(NAMES[:50], settings)
    assert {name for name, split in found.items() if split == "held_out"} == {"walk-7"}
    assert {name for name, split in found.items() if split == "validation"} == {"walk-1", "walk-2"}
    assert assign_splits(["walk-7"], DataSettings(held_out_videos=("walk-7",))) == {"walk-7": "held_out"}


def test_a_name_without_a_source_is_refused():
    with pytest.raises(InputError, match=r"data: held_out_videos: found wlak-1, expected names of sources, such as walk-0, walk-1"):
        assign_splits(NAMES[:2], DataSettings(held_out_videos=("wlak-1",)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"held_out_videos": ("a",), "validation_videos": ("a",)}, "a is listed in"),
        ({"held_out_share": 0.6, "validation_share": 0.4}, "leave no footage"),
        ({"source_pattern": "("}, "no regular expression"),
        ({"source_pattern": "[^/]+"}, "no group"),
    ],
)
def test_contradicting_settings_are_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        DataSettings(**wrong)


def test_a_source_is_the_file_name_without_suffix_or_what_the_pattern_says():
    default = DataSettings().source_pattern
    assert {source_of(Path(path), default) for path in ("a/garden.mp4", "garden.webm", "/b/garden.mkv")} == {"garden"}
    assert source_of(Path("a/tour.2.mp4"), default) == "tour.2"
    assert {source_of(Path(path), r"([^/]+)/[^/]+$") for path in ("x/tour/1.mp4", "x/tour/2.mp4")} == {"tour"}
    assert source_of(Path("x/abc_0012_0047.mp4"), r"([^/_]+)_\d+_\d+\.") == "abc"
    with pytest.raises(InputError, match=r"data\.source_pattern"):
        source_of(Path("x/abc.mp4"), r"([^/_]+)_\d+")


def test_an_empty_required_split_is_one_line_that_names_it_and_the_ways_to_get_one():
    require_splits("clips", {"train": 2, "held_out": 1}, ("train", "held_out"))
    with pytest.raises(InputError) as error:
        require_splits("clips", {"train": 2, "held_out": 0}, ("train", "held_out"))
    line = str(error.value)
    assert line.startswith("clips: split held_out: found no clip (train 2), expected at least one;") and "\n" not in line
    assert "data.held_out_videos" in line and "data.held_out_share" in line and "benchmark.held_out=false" in line
