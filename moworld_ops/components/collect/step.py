"""Step `collect`: game scenes and videos to a folder of raw clips with a manifest (paper 2)."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from moworld.data.clips import write_manifest
from moworld.data.partitions import partition_settings
from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
from moworld.errors import invalid_value
from moworld.files import atomic_folder
from moworld_ops.components.platform.context import context


def collect(
    out: str, settings: dict[str, Any], seed: int, required_splits: Sequence[str] = (), sources: str = "", partition: int | None = None
) -> dict[str, Any]:
    """Records and imports the sources of the profile's section `data` into the clips folder `out`; returns its summary.

    sources:         folder of `split_sources`, of which only `partition` is collected; a partition may have no clip
    required_splits: an empty one is refused as soon as the sources are known
    Inside a run, recorded episodes are kept with its checkpoints: a resumed run records only the missing ones.
    Raises InputError for invalid settings, invalid sources and an empty required split; `out` is then not written.
    """
    try:
        checked = DataSettings.model_validate(settings)
    except ValidationError as error:
        raise invalid_value("data", error, "correct the profile's section data") from None
    if partition is None:
        return collect_clips(out, checked, seed, context().checkpoints, required_splits)
    own = partition_settings(checked, sources, partition)
    if own is None:
        with atomic_folder(out) as folder:
            write_manifest(folder, [])
        return {"seed": seed, "clips": 0, "frames": 0, "rejected": [], "files": [], "splits": {}}
    return collect_clips(out, own, seed, context().checkpoints, may_be_empty=True)
