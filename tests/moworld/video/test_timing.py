"""Constant rates: regular sources keep their frames, variable ones are resampled, missing time is a break."""

import numpy as np
import pytest

from moworld.errors import InputError
from moworld.video import timeline


def test_a_regular_source_keeps_all_frames_at_the_rate_of_its_header():
    for times, nominal in ((np.arange(96) / 24, 24.0), (np.round(np.arange(48) / 30, 3), 30.0), (np.arange(20) * 2.0, 0.5)):
        line = timeline("v", times, nominal)
        assert (line.fps, len(line.chosen), len(line.breaks), line.resampled) == (nominal, len(times), 0, False)


def test_the_measured_rate_counts_when_the_header_is_wrong():
    assert timeline("v", np.arange(48) / 30, 1000.0).fps == 30
    assert timeline("v", np.arange(9000) * 1001 / 30000, 30.0).fps == pytest.approx(30000 / 1001, rel=1e-4)


def test_missing_frames_and_jumps_back_are_breaks_and_doubled_frames_are_left_out():
    assert timeline("v", np.delete(np.arange(96) / 24, [50, 51]), 24.0).breaks.tolist() == [50]
    assert timeline("v", np.r_[np.arange(40), np.arange(40)] / 24, 24.0).breaks.tolist() == [40]
    doubled = timeline("v", np.sort(np.r_[np.arange(40), 10]) / 24, 24.0)
    assert len(doubled.chosen) == 40 and not len(doubled.breaks)


def test_a_variable_rate_is_resampled_to_the_rate_that_it_sustains():
    times = np.r_[np.arange(30) / 30, 1 + np.arange(30) / 10]
    line = timeline("v", times, 15.25)
    assert line.resampled and line.fps == 10 and line.source_fps == pytest.approx(15.1, abs=0.1)
    np.testing.assert_allclose(np.diff(times[line.chosen]), 0.1, atol=0.02)


def test_a_lower_wanted_rate_takes_the_frames_nearest_in_time():
    times = np.arange(120) / 60
    line = timeline("v", times, 60.0, wanted=24)
    assert line.fps == 24 and np.abs(times[line.chosen] - np.arange(len(line.chosen)) / 24).max() <= 0.5 / 60 + 1e-9
    assert not timeline("v", times, 60.0, wanted=120).resampled


def test_times_that_do_not_advance_are_refused_and_absent_ones_follow_the_header():
    with pytest.raises(InputError, match="timestamps"):
        timeline("v", np.zeros(30), 24.0)
    assert timeline("v", np.full(20, np.nan), 25.0).times[-1] == pytest.approx(19 / 25)
