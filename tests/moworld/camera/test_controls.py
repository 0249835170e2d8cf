"""Controls: text to poses, and invalid text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.camera import controls_to_c2w, parse_controls
from moworld.camera.controls import MAX_PITCH_DEGREES, Walk
from moworld.errors import InputError
from tests.moworld.worlds import controls_from_c2w

action = st.sampled_from(["", "w", "s", "a", "d", "j", "l", "i", "k", "wl", "wj", "sa", "di", "wdlk"]).map(frozenset)
DATA = Path(__file__).parents[3] / "../shared/data"


def test_walking_forward_moves_along_z_by_a_54th_each():
    c2w = controls_to_c2w("w*54")
    assert c2w.shape == (55, 4, 4)
    np.testing.assert_allclose(c2w[0], np.eye(4))
    np.testing.assert_allclose(c2w[54, :3, 3], [0, 0, 1], atol=1e-12)


def test_turning_right_looks_towards_x_and_walking_goes_there():
    c2w = controls_to_c2w("l*90,w*54,i*30")
    np.testing.assert_allclose(c2w[90, :3, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(c2w[144, :3, 3], [1, 0, 0], atol=1e-12)
    assert c2w[-1, 1, 2] == pytest.approx(-0.5)  # looking up is towards -y


def test_pitch_stops_at_85_degrees_and_yaw_stays_about_the_worlds_up_axis():
    c2w = controls_to_c2w("i*120,l*40")
    pitch = np.degrees(np.arcsin(-c2w[:, 1, 2]))
    assert pitch.max() == pytest.approx(MAX_PITCH_DEGREES) and pitch[-1] == pytest.approx(MAX_PITCH_DEGREES)
    np.testing.assert_allclose(c2w[:, 1, 0], 0, atol=1e-12)  # the horizon stays level


@settings(max_examples=25, deadline=None)
@given(st.lists(action, min_size=1, max_size=24))
def test_poses_determine_the_controls(actions):
    assert controls_from_c2w(controls_to_c2w(actions, step=0.02, degrees=2.0), step=0.02, degrees=2.0) == actions
    assert parse_controls(",".join("".join(keys) or "none" for keys in actions)) == actions


def test_both_spellings_are_read():
    assert parse_controls("w-2, iw-1,none-1") == [{"w"}, {"w"}, {"i", "w"}, set()] == parse_controls("w*2,wi,none*1")


@pytest.mark.parametrize("text", ["", "w*", "x*3", "w*0", "ws*3", "w*-1", "w**2", "w*3;d*2", "w*1.5", "w*999999999999", "w*3,,d"])
def test_invalid_text_is_rejected(text):
    with pytest.raises(InputError, match="controls: term"):
        parse_controls(text)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is absent")
def test_every_published_trajectory_line_is_read():
    lines = (DATA / "minwm/trajectories.txt").read_text().split()
    assert len(lines) > 20
    assert {len(controls_to_c2w(line)) for line in lines} == {len(parse_controls(lines[0])) + 1}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["w", "s", "a", "d", "j", "l", "i", "k", "wl", "aj", "dl"]), min_size=2, max_size=24), st.data())
def test_a_walk_cut_anywhere_is_the_same_walk(keys, data):
    cut = data.draw(st.integers(1, len(keys) - 1))
    whole, parts, resumed = Walk(), Walk(), Walk()
    poses = whole.go(keys)
    first = parts.go(keys[:cut])
    resumed.set_pose(first[-1])
    np.testing.assert_array_equal(np.concatenate([first, parts.go(keys[cut:])]), poses)
    np.testing.assert_allclose(resumed.go(keys[cut:]), poses[cut:], atol=1e-9)
