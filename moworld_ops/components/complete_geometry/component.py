"""Verifies known cameras and recovers missing ones.

Known cameras are checked against the images; missing ones come from structure from motion (COLMAP in windows joined by Sim(3)).
A trajectory is split at jumps. Clips that contracts `clips` and `geometry` reject go to quarantine. Each clip gets its point cloud.

Resources: one process per available CPU; structure from motion dominates the time if cameras are missing
Failure modes: more clips rejected than a contract allows: exit status 1; the reasons stay in the run's folder under `refused/`
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def complete_geometry(
    raw: dsl.Input[dsl.Dataset],
    clips: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    settings: str,
    partition: str = "",
) -> None:
    """Give every clip a verified camera: check known ones, recover missing ones, reject unreliable ones.

    Args:
        raw: raw clips
        clips: clips with cameras and measures
        quarantine: rejected clips with rule, value and threshold
        settings: section `geometry` of the profile, JSON
        partition: number of the partition, which is not judged as a batch; empty for all clips
    """
    from json import loads

    from moworld_ops.components.complete_geometry.step import complete_geometry as step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(clips, may_be_empty=(quarantine,), partition=partition) as record:
        paths = {"clips": input_path(raw), "out": output_path(clips), "quarantine": quarantine.path}
        record(step(**paths, settings=loads(settings), judged=not partition))
