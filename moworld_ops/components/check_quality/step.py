"""Step `check_quality`: measures the images and checks every clip against contract `quality`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from moworld.data.clips import read_manifest
from moworld.data.duplicates import clip_hashes, with_similarity, write_hashes
from moworld.data.quality import measure_quality
from moworld.files import write_json
from moworld_ops.components.clip_pool import Failed, map_clips
from moworld_ops.components.clips import filter_clips
from moworld_ops.data_contracts.expectations import validate
from moworld_ops.data_contracts.load import load_contract

VALIDATED = ("clips", "geometry", "quality")  # contracts that the accepted clips keep by now


def check_quality(clips: str, out: str, quarantine: str, report: str, judged: bool = True) -> dict[str, Any]:
    """Writes accepted clips, the quarantine and the report; returns the summary.

    Contracts `clips` and `geometry` were decided by complete_geometry. Great Expectations validates the accepted rows against all three.
    judged: False for a partition (see `filter_clips`). Its frame hashes are written to `out`, too, for the duplicates of other partitions.
    Raises Refused when more clips are rejected than the contract allows.
    """
    hashes: dict[str, Any] = {}

    def measure(folder: Path) -> list[Any]:
        made = map_clips(_measure, clips, folder, None)
        usable = [index for index, one in enumerate(made) if not isinstance(one, Failed)]
        rows = with_similarity([made[index][0] for index in usable], [made[index][1] for index in usable]) if usable else []
        hashes.update({made[index][0].clip_id: made[index][1] for index in usable})
        for index, row in zip(usable, rows, strict=True):
            made[index] = row
        return made

    summary, details = filter_clips(clips, out, quarantine, ["quality"], measure, judged)
    if not judged:
        write_hashes(out, list(hashes), list(hashes.values()))
    accepted = [asdict(clip) for clip in read_manifest(out)]
    results = {name: validate(accepted, load_contract(name)) for name in VALIDATED if accepted}
    write_json(report, {**details, "great_expectations": results})
    return {**summary, "great_expectations": all(result["success"] for result in results.values())}


def _measure(clip: Any, folder: Path, _: Any) -> tuple[Any, Any]:
    return measure_quality(clip, folder), clip_hashes(clip, folder)
