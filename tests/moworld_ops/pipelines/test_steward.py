"""The trend of the runs of a profile: accepted clips, and rejected ones at the first contract that they broke."""

import pyarrow
import pytest
from pyarrow import parquet

from moworld.files import write_json
from moworld_ops.data_contracts.pages import Batch
from moworld_ops.pipelines.runs import Run
from moworld_ops.pipelines.steward import trend


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))
    return tmp_path


def checked(home, name: str, started: float, accepted: int | None, broken=(), profile: str = "test") -> Run:
    """Writes the folder of a run; accepted: rows of the captioned clips, None for a run that a contract refused."""
    run = Run(home / "runs" / name)
    status = "refused" if accepted is None else "done"
    run.update(run=name, pipeline="data", profile=profile, status=status, started=started, seconds=1.0, steps=None)
    reasons = [{"clip_id": clip, "contract": contract, "rule": "r", "value": 1, "threshold": ""} for clip, contract in broken]
    if accepted is None:
        write_json(run.folder / "refused" / "complete_geometry" / "reasons.json", reasons)
        return run
    outputs = {name: {"path": str(run.folder / name)} for name in ("captioned", "quarantine")}
    write_json(run.folder / "quarantine" / "reasons.json", reasons)
    (run.folder / "captioned").mkdir()
    parquet.write_table(pyarrow.table({"clip_id": [str(number) for number in range(accepted)]}), run.folder / "captioned" / "manifest.parquet")
    write_json(run.folder / "steps" / "annotate.json", {"status": "done", "started": started, "seconds": 1.0, "outputs": outputs})
    return run


def test_runs_of_a_profile_are_compared_up_to_the_shown_one_and_a_refused_one_has_its_rejections(home):
    checked(home, "first", 1.0, 3, [("a", "geometry"), ("a", "quality"), ("b", "quality")])
    checked(home, "refused", 2.0, None, [("c", "geometry"), ("d", "geometry")])
    checked(home, "other", 3.0, 9, profile="pocket")
    shown = checked(home, "shown", 4.0, 5)
    checked(home, "later", 5.0, 6)
    assert trend(shown) == [
        Batch("shown", 5, {}), Batch("refused", 0, {"geometry": 2}), Batch("first", 3, {"geometry": 1, "quality": 1}),
    ]  # fmt: skip
    assert [batch.name for batch in trend(shown, 2)] == ["shown", "refused"]


@pytest.mark.parametrize("damaged", ["steps/annotate.json", "captioned/manifest.parquet", "quarantine/reasons.json"])
def test_a_damaged_or_emptied_run_is_left_out(home, damaged):
    run, shown = checked(home, "first", 1.0, 3), checked(home, "shown", 4.0, 5)
    (run.folder / damaged).write_text("no record")
    (run.folder / "captioned" / "other").write_text("")
    assert [batch.name for batch in trend(shown)] == ["shown"]
