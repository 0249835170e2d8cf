"""Step `check_quality`: measures the images and checks every clip against contract `quality`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from moworld.data.clips import read_manifest
from moworld.data.duplicates import stored_hashes, with_similarity
from moworld.data.quality import measure_quality
from moworld.files import write_json
from moworld_ops.components.clips import filter_clips, map_clips
from moworld_ops.data_contracts.expectations import validate
from moworld_ops.data_contracts.load import load_contract

VALIDATED = ("clips", "geometry", "quality")  # contracts that the accepted clips keep by now


def check_quality(clips: str, out: str, quarantine: str, report: str, hashes: str | None = None) -> dict[str, Any]:
    """Writes accepted clips, the quarantine and the report; returns the summary.

    hashes: folder of the frame hashes of clips, which is read and added to; None keeps none

    Clips that have their measures, of an earlier revision, come first: a new clip that repeats one of them is the duplicate.
    Contracts `clips` and `geometry` were decided by complete_geometry. Great Expectations validates the accepted rows against all three.
    Raises Refused when more clips are rejected than the contract allows.
    """

    def measure(folder: Path) -> list[Any]:
        found = sorted(map_clips(_measure, clips, folder, hashes), key=lambda pair: pair[0].similarity is None)
        return with_similarity(*map(list, zip(*found, strict=True)))

    summary, details = filter_clips(clips, out, quarantine, ["quality"], measure)
    accepted = [asdict(clip) for clip in read_manifest(out)]
    results = {name: validate(accepted, load_contract(name)) for name in VALIDATED}
    write_json(report, {**details, "great_expectations": results})
    return {**summary, "great_expectations": all(result["success"] for result in results.values())}


def _measure(clip: Any, folder: Path, hashes: str | None) -> tuple[Any, Any]:
    return clip if clip.similarity is not None else measure_quality(clip, folder), stored_hashes(clip, folder, hashes)
