"""Give every clip verified cameras; what cannot be trusted is split off, or goes to quarantine with its reason."""

from pathlib import Path
from typing import Any

CONTRACTS = ("clips", "geometry")


def complete_geometry(clips: str, out: str, quarantine: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write clips with cameras, and the rejected ones with rule, value and threshold. seed: of matching and mapping (none drawn).

    A trajectory is split where it jumps further than the contract allows; what remains is judged as clips of their own, and a clip of which one
    is left counts as accepted.
    """
    from components.check_quality.step import over_clips, sort_out
    from data_contracts.load import load_contract
    from moworld.data.geometry import GeometrySettings, JumpLimits

    highest = {rule.column: rule.maximum for rule in load_contract("geometry").rules if rule.maximum is not None}
    limits = JumpLimits(highest["max_rotation_step_degrees"], highest["max_translation_step"])

    def measure(folder: Path) -> list[Any]:
        return over_clips(_complete, clips, folder, (GeometrySettings(**settings), limits))

    return sort_out(clips, out, quarantine, CONTRACTS, measure)[0]


def _complete(clip: Any, folder: Path, settings: Any) -> Any:
    from moworld.data.geometry import complete_clip

    return complete_clip(clip, folder, *settings)
