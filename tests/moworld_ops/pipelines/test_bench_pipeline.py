"""`moworld bench pipeline`: a run beside the sum of its steps, in a temporary state folder."""

import os

import pytest

from moworld_ops.pipelines.bench_pipeline import bench_pipeline


@pytest.mark.slow
def test_a_run_is_timed_beside_its_steps_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))
    (row,) = bench_pipeline("test")
    assert list(row) == ["case", "ours", "peer", "peer_name", "ratio", "unit"]
    assert 0 < row["peer"] < row["ours"] and row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.01)
    assert os.environ["MOWORLD_HOME"] == str(tmp_path) and not list(tmp_path.iterdir())
