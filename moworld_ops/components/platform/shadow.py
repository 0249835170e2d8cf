"""Shadow replays as evidence of a release: what `rollout --replay RECORD --model CANDIDATE --json` printed, beside the gates.

A replay is computed on a machine that serves and is not signed, so it is shown and never judged: a gate needs signed metrics.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moworld.documents import parse_json_object
from moworld.errors import InputError, invalid_value
from moworld.inference.provenance import ModelIdentity

FIX = "make it by: moworld rollout --replay RECORD --model CANDIDATE --json > FILE"
MAX_BYTES = 2**24


class _Psnr(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    mean: float
    chunks: list[float] = Field(min_length=1)


class _Replay(BaseModel):
    model_config = ConfigDict(extra="ignore")
    record: str
    recorded_model: ModelIdentity
    model: ModelIdentity
    equal_chunks: int
    chunks: int
    psnr_to_recorded_video: _Psnr | None = None


def replay_rows(paths: Sequence[Path], candidate_sha256: str, champion_sha256: str) -> list[dict[str, Any]]:
    """Returns a row beside the gates for each replay of a session of the champion by the candidate.

    Raises InputError for a file that is no replay, or one of other models.
    """
    return [_row(path, candidate_sha256, champion_sha256) for path in paths]


def _row(path: Path, candidate_sha256: str, champion_sha256: str) -> dict[str, Any]:
    replay = _read(path)
    for field, found, wanted, who in (
        ("model.sha256", replay.model.sha256, candidate_sha256, "candidate"),
        ("recorded_model.sha256", replay.recorded_model.sha256, champion_sha256, "champion"),
    ):
        if found != wanted:
            raise InputError(path, field, found[:12], f"{wanted[:12] or 'none'}, the {who}", "replay a session of the champion by the candidate")
    psnr = replay.psnr_to_recorded_video
    beside = f", {psnr.mean:.1f} dB to the recorded video (first chunk {psnr.chunks[0]:.1f}, last {psnr.chunks[-1]:.1f})" if psnr else ""
    value = f"{replay.equal_chunks} of {replay.chunks} chunks equal{beside}"
    gate = f"shadow replay of {Path(replay.record).name} beside the champion"
    return {"gate": gate, "metric": "replay", "value": value, "threshold": "shown, not judged", "margin": None, "passed": None}


def _read(path: Path) -> _Replay:
    if not path.is_file():
        raise InputError(path, "", "no such file", "the JSON of a replay", FIX)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(path, "", f"{size} bytes", f"at most {MAX_BYTES}", FIX)
    try:
        return _Replay(**parse_json_object(path.read_bytes(), path, FIX))
    except ValidationError as error:
        raise invalid_value(path, error, FIX) from None
