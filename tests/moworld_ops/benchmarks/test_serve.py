"""Many visitors of a tiny served model: rows of cadence, stalls, cost and the queue."""

from pathlib import Path

import pytest
from PIL import Image

from moworld.errors import InputError
from moworld_ops.benchmarks.serve import Load, bench_serve
from tests.moworld.inference.worlds import picture, served_world


@pytest.mark.slow
def test_eight_visitors_get_frames_and_the_ninth_a_place_in_the_queue(tmp_path: Path) -> None:
    served_world(tmp_path / "codec").save(tmp_path / "model")
    (tmp_path / "model" / "pictures").mkdir()
    Image.fromarray(picture()).save(tmp_path / "model" / "pictures" / "0.png")
    rows = {row["case"]: row for row in bench_serve(tmp_path / "model", Load(8, 5.0, 2.0, price=0.5, backend="torch"), tmp_path / "home")}
    median, slowest, everyone = (rows[f"cadence: {name}"] for name in ("frames a second of a session, median", "the slowest session", "all sessions"))
    assert 0 < slowest["ours"] <= median["ours"] < 15 and 8 * slowest["ours"] <= everyone["ours"] + 0.01
    assert everyone["peer"] == 40 and everyone["ratio"] == pytest.approx(everyone["ours"] / 40, abs=0.01)
    assert rows["stalls: longest pause"]["ours"] > 0 and 0 <= rows["stalls: share of the time"]["ours"] <= 100
    hours = rows["cost: hours of a core per session-hour at 5 frames a second"]["ours"]
    assert hours > 0 and rows["cost: price per session-hour"]["ours"] == pytest.approx(hours / 2, abs=0.002)
    assert rows["queue: place of one more visitor"]["ours"] == 1 and rows["queue: seconds to the place of one who left"]["ours"] < 30


@pytest.mark.slow
def test_a_model_that_cannot_be_served_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a server that ended with status 2"):
        bench_serve(tmp_path, Load(), tmp_path)
