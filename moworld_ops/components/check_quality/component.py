"""Measures clips and applies the contracts `clips`, `geometry` and `quality`.

Measured: sharpness, exposure, motion, share of frozen frames, cuts, flicker, overlays, aspect ratio and similarity to other clips.

Frame hashes are kept in `frame-hashes/` in the state folder, so that clips of earlier revisions are compared without decoding them.

Resources: one process per available CPU, each below 0.5 GB
Failure modes: more rows rejected than a contract allows: one line with the first reason, exit status 1; the reasons stay in the
    run's folder. Every rejected clip is listed.
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def check_quality(
    clips: dsl.Input[dsl.Dataset],
    accepted: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    partition: str = "",
) -> None:
    """Measure the clips and check them against data contract `clips`: each is accepted, or quarantined with the reason.

    Args:
        clips: clips with cameras
        accepted: clips that satisfy the contract
        quarantine: rejected rows with rule, value and threshold
        report: the contract's report
        partition: number of the partition, which is not judged as a batch; empty for all clips
    """
    from moworld_ops.components.check_quality.step import check_quality as step
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(accepted, report, may_be_empty=(quarantine,), partition=partition) as record:
        paths = {"clips": input_path(clips), "out": output_path(accepted), "quarantine": quarantine.path, "report": report.path}
        record(step(**paths, judged=not partition, hashes=str(home() / "frame-hashes")))
