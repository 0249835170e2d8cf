"""The step `collect`: game scenes and videos to a folder of raw clips with a manifest (paper 2)."""

from typing import Any


def collect(out: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Record and import the sources of the profile's section `data` into the clips folder `out`; returns its summary.

    Inside a run, recorded episodes are kept with its checkpoints: killed and resumed, it records only those that are missing.
    Raises InputError for settings that are no DataSettings and for bad sources; `out` is then not written.
    """
    from pydantic import ValidationError

    from components.platform.home import checkpoint_folder
    from moworld.data.sources import DataSettings, collect_clips
    from moworld.errors import InputError

    try:
        checked = DataSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError("data", field, first["input"], first["msg"], "correct the profile's section data") from None
    return collect_clips(out, checked, seed, checkpoint_folder())
