"""Step `complete_geometry`: gives every clip verified cameras; what fails verification is cut off or quarantined (paper 2, stage 2)."""

from pathlib import Path
from typing import Any

from moworld.data.geometry import JumpLimits, complete_clip
from moworld.data.settings import GeometrySettings
from moworld_ops.components.clip_pool import map_clips
from moworld_ops.components.clips import filter_clips
from moworld_ops.data_contracts.load import load_contract

CONTRACTS = ("clips", "geometry")


def complete_geometry(clips: str, out: str, quarantine: str, settings: dict[str, Any], seed: int | None = None, judged: bool = True) -> dict[str, Any]:
    """Writes clips with cameras to `out`, and rejected ones with rule, value and threshold to `quarantine`; returns the summary.

    A trajectory is split where it jumps further than the contract allows, and each part is checked as a clip of its own.
    A clip counts as accepted if at least one part is. A clip that has its measures, of an earlier revision, is only checked.
    `seed` is ignored: matching and mapping use fixed seeds.
    judged: False for a partition (see `filter_clips`)
    Raises Refused when more clips are rejected than a contract allows.
    """
    highest = {rule.column: rule.maximum for rule in load_contract("geometry").rules if rule.kind == "range" and rule.maximum is not None}
    limits = JumpLimits(highest["max_rotation_step_degrees"], highest["max_translation_step"])

    def measure(folder: Path) -> list[Any]:
        return map_clips(_complete, clips, folder, (GeometrySettings(**settings), limits))

    return filter_clips(clips, out, quarantine, CONTRACTS, measure, judged)[0]


def _complete(clip: Any, folder: Path, settings: Any) -> Any:
    return complete_clip(clip, folder, *settings) if clip.path_length is None else [clip]
