"""Step `collect`: game scenes and videos to a folder of raw clips with a manifest (paper 2)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from moworld.data.partitions import partition_settings
from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
from moworld.errors import invalid_value
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.dataset import check_frame_size, default_registry, earlier_clips


def collect(
    out: str,
    settings: dict[str, Any],
    seed: int,
    required_splits: Sequence[str] = (),
    extends: dict[str, Any] | None = None,
    sources: str = "",
    partition: int | None = None,
) -> dict[str, Any]:
    """Records and imports the sources of the profile's section `data` into the clips folder `out`; returns its summary.

    sources:         folder of `split_sources`, of which only `partition` is collected; a partition may have no clip
    required_splits: an empty one is refused as soon as the sources are known
    extends:         registry whose newest revision the clips extend (see `earlier_clips`): {"registry", "append", "keep_codec"}
    Inside a run, recorded episodes are kept with its checkpoints: a resumed run records only the missing ones.
    Raises InputError for invalid settings, invalid sources and an empty required split; `out` is then not written.
    """
    try:
        checked = DataSettings.model_validate(settings)
    except ValidationError as error:
        raise invalid_value("data", error, "correct the profile's section data") from None
    earlier = None
    if extends is not None:
        earlier = earlier_clips(default_registry(extends["registry"]), extends["append"], extends["keep_codec"])
        check_frame_size(earlier, (checked.height, checked.width))
    if partition is None:
        return collect_clips(out, checked, seed, context().checkpoints, required_splits, earlier)
    own = partition_settings(checked, sources, partition) or checked.model_copy(update={"game": None, "videos": None})
    if earlier is not None:
        earlier = replace(earlier, carried=partition == 0)
    return collect_clips(out, own, seed, context().checkpoints, (), earlier, may_be_empty=True)
