"""Divides the footage into partitions.

Partitions (`data.partitions`) are even by bytes, follow from names and sizes alone, and change little when footage is added. Splits are
decided here, over all footage. A level of the game is a source, too.

Resources: one process, below 1 GB; a listing of the store if `data.videos` is a remote URI
Failure modes: no footage, or none for a required split: one line, exit status 2
Stability: alpha
Last verified: 2026-11-30
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def split_sources(sources: dsl.Output[dsl.Dataset], settings: str, required_splits: str) -> None:
    """Divide the sources of footage into partitions, evenly by bytes.

    Args:
        sources: partitions.json and a list of videos for each partition
        settings: section `data` of the profile, JSON
        required_splits: splits that must have a source, JSON
    """
    from json import loads

    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import output_path
    from moworld_ops.components.split_sources.step import split_sources as step

    with recorded(sources) as record:
        record(step(out=output_path(sources), settings=loads(settings), required_splits=loads(required_splits)))
