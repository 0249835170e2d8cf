"""Backends side by side: every backend serves in a process of its own, alone and beside a busy process."""

import pytest
from PIL import Image

from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld_ops.benchmarks.backends import BACKENDS, MODES, bench_backends
from tests.moworld.inference.worlds import picture, served_world


@pytest.mark.slow
def test_rows_compare_openvino_and_each_backend_with_itself(tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="x86-64 only")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    world = served_world(tmp_path / "codec", student_steps=2)
    quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
    world.save(tmp_path / "model")
    (tmp_path / "model" / "pictures").mkdir()
    Image.fromarray(picture()).save(tmp_path / "model" / "pictures" / "0.png")
    rows = bench_backends(tmp_path / "model", tmp_path / "cache", turns=1, chunks=1)
    peers = len(BACKENDS) - 1
    assert len(rows) == 2 * len(MODES) * peers + len(BACKENDS) * (1 + len(MODES))
    assert {row["peer_name"] for row in rows} == {*BACKENDS[1:], MODES[0], "alone"}
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0 for row in rows)
