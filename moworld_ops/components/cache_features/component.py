"""Encodes latents, text embeddings and camera tensors into safetensors shards, and records them as a DVC revision.

Clips that extend a data revision extend its shards, too: a feature that the revision has is not computed again.
A clip that the same codec and text encoder encoded before is taken from `encoded/` in the state folder, so only new footage is encoded.
On a cluster the state folder is on the shared volume: encoded clips outlive a run, and several runs may write them at a time.

`world.json` has the defaults of sessions: the most common frame rate and the median intrinsics over all frames. Mixed frame rates give
one line of warning, because a key moves by one step a frame at any rate.

Resources: two cores; a TrainJob on a cluster (`pool`)
Failure modes: a clip without a camera or caption: one line, exit status 2
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def cache_features(
    clips: dsl.Input[dsl.Dataset],
    codec: dsl.Input[dsl.Model],
    features: dsl.Output[dsl.Dataset],
    data: str,
    text: str,
    registry: str = "",
    remote: str = "",
    pool: str = "",
    partition: str = "",
) -> None:
    """Encode clips to latents, captions to embeddings and cameras to tensors, in shards that DVC versions.

    Args:
        clips: captioned clips
        codec: the video autoencoder
        features: shards, index.parquet, revision.json
        data: section `data` of the profile, JSON
        text: section `text` of the profile, JSON
        registry: folder of the git and DVC registry; empty for the one in the state folder
        remote: where a new registry keeps its data, s3://...; empty for a folder next to it
        pool: where the step runs, JSON; empty for this process
        partition: number of the partition, which DVC does not version; empty for all clips
    """
    from json import loads

    from moworld_ops.components.cache_features.step import put_under_dvc
    from moworld_ops.components.platform.dataset import default_registry, earlier_features
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(features, partition=partition) as record:
        paths = {"clips": input_path(clips), "codec": input_path(codec), "out": output_path(features), "cache": str(home() / "encoded")}
        options = {"data_settings": loads(data), "text_settings": loads(text)}
        if partition:
            record(run_step("cache_features", paths | options | {"partition": int(partition)}, pool))
        else:
            with earlier_features(paths["clips"], paths["out"]) as earlier:
                summary = run_step("cache_features", paths | options | {"earlier": earlier}, pool)
            record(summary | put_under_dvc(paths["out"], default_registry(registry), remote, paths["clips"]))
