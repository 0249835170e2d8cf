"""Merges the feature shards of all partitions.

Shards are hard links with the partition in their names; the index is merged, and DVC versions the whole.

Resources: one process, below 2 GB
Failure modes: a partition without an index: one line, exit status 2
Stability: alpha
Last verified: 2026-11-30
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def merge_features(
    clips: dsl.Input[dsl.Dataset],
    parts: dsl.Input[list[dsl.Dataset]],
    features: dsl.Output[dsl.Dataset],
    registry: str = "",
    remote: str = "",
) -> None:
    """Merge the features of all partitions, and let DVC version them.

    Args:
        clips: the captioned clips of all partitions, which the next import extends
        parts: features of the partitions
        features: shards, index.parquet, revision.json
        registry: folder of the git and DVC registry; empty for the one in the state folder
        remote: where a new registry keeps its data, s3://...; empty for a folder next to it
    """
    from moworld_ops.components.cache_features.step import put_under_dvc
    from moworld_ops.components.merge_features.step import merge_features as step
    from moworld_ops.components.platform.dataset import default_registry
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(features) as record:
        out = output_path(features)
        summary = step(parts=[input_path(part) for part in parts], out=out)
        record(summary | put_under_dvc(out, default_registry(registry), remote, input_path(clips)))
