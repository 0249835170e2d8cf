"""Cuts, jump cuts, dissolves and fades are found; flashes, whip pans, insets and repeated frames are not cuts. Prints F1."""

import numpy as np
import pytest

from moworld.data.shots import Dropped, Looks, Shot, find_shots
from tests.moworld.data.edited import TRANSITIONS, Event, Frames, Scene, f1, scores


def parts_of(frames: Frames, still_frames: int = 24, max_frames: int = 2001) -> list[Shot | Dropped]:
    looks = Looks()
    for frame in frames:
        looks.add(frame)
    return find_shots(looks.of(np.arange(len(frames))), 0.35, max_frames, still_frames)


def transitions(frames: Frames) -> list[Event]:
    """Frame numbers of cuts, and of the stretches that are dropped between shots."""
    events: list[Event] = []
    before: Shot | Dropped | None = None
    for part in parts_of(frames):
        if isinstance(part, Shot) and isinstance(before, Shot):
            events.append((part.start, part.start))
        elif isinstance(part, Dropped):
            start = events.pop()[0] if isinstance(before, Dropped) else part.start
            events.append((start, part.stop))
        before = part
    return events


@pytest.mark.slow
def test_transitions_are_found_and_nothing_else():
    table = scores(transitions, range(20, 24))
    print("\nkind: found, missed, false", table, f"F1 {f1(table):.3f}", sep="\n")
    assert f1(table) > 0.75
    assert f1({kind: table[kind] for kind in TRANSITIONS if kind != "dissolve"}) > 0.85


@pytest.mark.parametrize("kind", ["cut", "fade white", "flash", "repeated"])
def test_one_of_each(kind: str):
    table = scores(transitions, range(22, 23), (kind,))
    assert table[kind] == ((1, 0, 0) if kind in TRANSITIONS else (0, 0, 0))


def test_dark_footage_that_moves_is_not_black():
    night = [(frame // 10).astype(np.uint8) for frame in Scene(3).frames(0, 40)]
    assert parts_of(night) == [Shot(0, 40)]
    assert parts_of([np.zeros_like(night[0])] * 10) == [Dropped(0, 10, "black")]


def test_a_still_picture_with_grain_is_frozen_and_long_shots_are_divided():
    g = np.random.default_rng(0)
    still = Scene(3).frame(0).astype(float)
    grainy = [np.clip(still + g.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(60)]
    assert parts_of(grainy) == [Shot(0, 1), Dropped(1, 60, "frozen")]
    assert [(part.start, part.stop) for part in parts_of(Scene(3).frames(0, 50), max_frames=20)] == [(0, 20), (20, 40), (40, 50)]
