"""Step `check_quality`: measures the images and checks every clip against contract `quality`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from moworld.data.clips import read_manifest
from moworld.data.duplicates import stored_hashes, with_similarity, write_hashes
from moworld.data.quality import measure_quality
from moworld.files import write_json
from moworld_ops.components.clip_pool import Failed, map_clips
from moworld_ops.components.clips import filter_clips
from moworld_ops.data_contracts.expectations import validate
from moworld_ops.data_contracts.load import load_contract

VALIDATED = ("clips", "geometry", "quality")  # contracts that the accepted clips keep by now


def check_quality(
    clips: str, out: str, quarantine: str, report: str, hashes: str | None = None, judged: bool = True
) -> dict[str, Any]:
    """Writes accepted clips, the quarantine and the report; returns the summary.

    Clips that have their measures, of an earlier revision, come first: a new clip that repeats one of them is the duplicate.
    Contracts `clips` and `geometry` were decided by complete_geometry. Great Expectations validates the accepted rows against all three.
    judged: False for a partition (see `filter_clips`). Its frame hashes are written to `out`, too, for the duplicates of other partitions.
    hashes: folder of the frame hashes of clips, which is read and added to; None keeps none
    Raises Refused when more clips are rejected than the contract allows.
    """
    found: dict[str, Any] = {}

    def measure(folder: Path) -> list[Any]:
        made = map_clips(_measure, clips, folder, hashes)
        usable = [index for index, one in enumerate(made) if not isinstance(one, Failed)]
        usable.sort(key=lambda index: made[index][0].similarity is None)
        rows = with_similarity([made[index][0] for index in usable], [made[index][1] for index in usable]) if usable else []
        found.update({made[index][0].clip_id: made[index][1] for index in usable})
        for index, row in zip(usable, rows, strict=True):
            made[index] = row
        return made

    summary, details = filter_clips(clips, out, quarantine, ["quality"], measure, judged)
    if not judged:
        earlier = {clip.clip_id for clip in read_manifest(clips) if clip.similarity is not None}
        write_hashes(out, list(found), list(found.values()), earlier)
    accepted = [asdict(clip) for clip in read_manifest(out)]
    results = {name: validate(accepted, load_contract(name)) for name in VALIDATED if accepted}
    write_json(report, {**details, "great_expectations": results})
    return {**summary, "great_expectations": all(result["success"] for result in results.values())}


def _measure(clip: Any, folder: Path, hashes: str | None) -> tuple[Any, Any]:
    return clip if clip.similarity is not None else measure_quality(clip, folder), stored_hashes(clip, folder, hashes)
