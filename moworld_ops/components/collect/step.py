"""Step `collect`: game scenes and videos to a folder of raw clips with a manifest (paper 2)."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
from moworld.errors import invalid_value
from moworld_ops.components.platform.context import context


def collect(out: str, settings: dict[str, Any], seed: int, required_splits: Sequence[str] = ()) -> dict[str, Any]:
    """Records and imports the sources of the profile's section `data` into the clips folder `out`; returns its summary.

    required_splits: an empty one is refused as soon as the sources are known
    Inside a run, recorded episodes are kept with its checkpoints: a resumed run records only the missing ones.
    Raises InputError for invalid settings, invalid sources and an empty required split; `out` is then not written.
    """
    try:
        checked = DataSettings.model_validate(settings)
    except ValidationError as error:
        raise invalid_value("data", error, "correct the profile's section data") from None
    return collect_clips(out, checked, seed, context().checkpoints, required_splits)
