"""Step `split_sources`: lists the footage of a run and divides it into partitions, whose steps run side by side."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from moworld.data.partitions import split_sources as split
from moworld.data.settings import DataSettings
from moworld.errors import invalid_value


def split_sources(out: str, settings: dict[str, Any], required_splits: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the sources of each partition to the folder `out`; returns counts. Remote footage is listed, not fetched.

    settings: the profile's section `data`
    Raises InputError for invalid settings, invalid sources and a required split without a source; `out` is then not written.
    """
    try:
        checked = DataSettings.model_validate(settings)
    except ValidationError as error:
        raise invalid_value("data", error, "correct the profile's section data") from None
    return split(out, checked, required_splits)
