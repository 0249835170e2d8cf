"""Environments measured on a tiny model: rows for every mode and number."""

from pathlib import Path

import pytest
from PIL import Image

from moworld_ops.benchmarks.environments import bench_environments
from tests.moworld.inference.worlds import picture, served_world


@pytest.mark.slow
def test_rows_say_how_many_chunks_a_second_environments_get(tmp_path: Path) -> None:
    served_world(tmp_path / "codec").save(tmp_path / "model")
    (tmp_path / "model" / "pictures").mkdir()
    Image.fromarray(picture()).save(tmp_path / "model" / "pictures" / "0.png")
    first, *rows = bench_environments(tmp_path / "model", steps=2)
    assert first["case"] == "1 environment" and first["ours"] > 0 and first["peer"] is None
    assert [row["case"] for row in rows] == [f"{n} environments, {mode}" for mode in ("vector_entry_point", "async") for n in (2, 4)]
    assert all(row["ours"] > 0 and row["peer"] == first["ours"] and row["ratio"] == pytest.approx(row["ours"] / row["peer"], abs=0.05) for row in rows)
