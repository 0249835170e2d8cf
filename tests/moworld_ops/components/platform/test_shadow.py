"""Shadow replays beside the gates: shown if they are of candidate and champion, refused otherwise."""

import json
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.shadow import replay_rows

CANDIDATE, CHAMPION = "c" * 64, "a" * 64
REPLAY = {  # as `rollout --replay` prints it
    "record": "walks/hall.mp4", "same_model": False, "same_frames": False, "recorded_model": {"sha256": CHAMPION}, "model": {"sha256": CANDIDATE},
    "equal_chunks": 1, "chunks": 5, "seconds": 2.0, "backend": "torch", "psnr_to_recorded_video": {"mean": 21.26, "chunks": [30.0, 18.04], "frames": 25},
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    (folder / "replay.json").write_text(json.dumps(REPLAY | changes))
    return folder / "replay.json"


def test_a_replay_is_shown_and_not_judged(tmp_path: Path) -> None:
    (row,) = replay_rows([written(tmp_path)], CANDIDATE, CHAMPION)
    assert row["gate"] == "shadow replay of hall.mp4 beside the champion" and row["passed"] is None
    assert row["value"] == "1 of 5 chunks equal, 21.3 dB to the recorded video (first chunk 30.0, last 18.0)"
    (row,) = replay_rows([written(tmp_path, psnr_to_recorded_video=None)], CANDIDATE, CHAMPION)
    assert row["value"] == "1 of 5 chunks equal"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"sha256": "b" * 64}}, "the candidate"),
        ({"recorded_model": {"sha256": CANDIDATE}}, "the champion"),
        ({"model": {"sha256": "x"}}, "model.sha256"),
        ({"chunks": None}, "chunks"),
        ({"psnr_to_recorded_video": {"mean": 1.0, "chunks": []}}, "chunks"),
    ],
)
def test_a_replay_of_other_models_or_none_is_refused(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        replay_rows([written(tmp_path, **changes)], CANDIDATE, CHAMPION)
    with pytest.raises(InputError, match="no such file"):
        replay_rows([tmp_path / "none.json"], CANDIDATE, CHAMPION)
