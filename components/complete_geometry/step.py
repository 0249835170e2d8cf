"""Give every clip verified cameras; what cannot be trusted goes to quarantine with its reason."""

from pathlib import Path
from typing import Any

COLUMNS = {"camera", "epipolar_error_px", "max_rotation_step_degrees", "max_translation_step", "registered_share", "num_frames"}


def complete_geometry(clips: str, out: str, quarantine: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write clips with cameras, and the rejected ones with rule, value and threshold (of contract `clips`). seed: of feature matching (none drawn)."""
    from components.check_quality.step import over_clips, sort_out
    from moworld.data.reconstruction import GeometrySettings

    return sort_out(clips, out, quarantine, COLUMNS, over_clips(_complete, clips, GeometrySettings(**settings)))[0]


def _complete(clip: Any, folder: Path, settings: Any) -> Any:
    from moworld.data.reconstruction import complete_clip

    return complete_clip(clip, folder, settings)
