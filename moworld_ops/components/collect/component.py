"""Collects raw clips from a game engine and from videos.

The game engine is ViZDoom with the Freedoom levels: exact camera, depth, actions. Videos are files, folders, lists and URIs. They are
decoded in separate processes and split at shots, black frames and frozen frames; letterbox bars are cropped. Levels are listed per
split; videos are split by source into train, validation and held_out (`data.validation_share`, `held_out_share`, or names).

Resources: two cores, about 1 GB (a decoder may reserve 6 GiB of address space); no network unless `data.videos` is a remote URI
Interruption: a run keeps recorded episodes with its checkpoints (hard links). A resumed run records only the missing ones, and its
    output is identical to the byte. Videos are imported again.
Failure modes: a named video that is unreadable or has a wrong camera file: one line, exit status 2. In a folder it is listed under
    `rejected` in summary.json, as are decoders that crash, hang for 30 s or exceed their memory. No source for a required split: one
    line, exit status 2, before a video is decoded.
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def collect(
    clips: dsl.Output[dsl.Dataset],
    settings: str,
    seed: str,
    required_splits: str,
    sources: dsl.Input[dsl.Dataset] = None,  # type: ignore[assignment]
    partition: str = "",
    extends: str = "null",
) -> None:
    """Record game scenes and import videos as raw clips with their manifest, beside the clips of the data revision that they extend.

    Args:
        clips: videos, cameras, depth, actions, manifest.parquet, sources.parquet, rejected.parquet, summary.json
        settings: section `data` of the profile, JSON
        seed: seed of the recorded episodes
        required_splits: splits that must have a clip, JSON
        sources: sources of the partitions, if there are several
        partition: number of the partition; empty for all footage
        extends: registry of the data, and whether the clips extend its newest revision: {"registry", "append", "keep_codec"}, JSON;
            null to read no registry
    """
    from json import loads

    from moworld_ops.components.collect.step import collect as step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(clips, partition=partition) as record:
        options = {"settings": loads(settings), "seed": int(seed), "required_splits": loads(required_splits), "extends": loads(extends)}
        if partition:
            options |= {"sources": input_path(sources), "partition": int(partition)}
        record(step(out=output_path(clips), **options))
