"""Merges the clips of all partitions.

Manifests are merged as tables, files are hard links, pictures are not read. Judged here is what only all partitions decide: duplicates of
clips of other partitions, the share of clips that a contract may reject, and the splits.

Resources: one process; a million rows: docs/results/2026-11-partitions-two-cores.md
Failure modes: more clips rejected than a contract allows: exit status 1; the reasons stay in the run's folder. A required split
    without a clip: one line, exit status 2
Stability: alpha
Last verified: 2026-11-30
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def merge_clips(
    parts: dsl.Input[list[dsl.Dataset]],
    geometry: dsl.Input[list[dsl.Dataset]],
    quality: dsl.Input[list[dsl.Dataset]],
    captions: dsl.Input[list[dsl.Dataset]],
    captioned: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    required_splits: str,
) -> None:
    """Merge the captioned clips of all partitions, and judge them together.

    Args:
        parts: captioned clips of the partitions
        geometry: clips that complete_geometry has rejected in each partition
        quality: clips that check_quality has rejected in each partition
        captions: clips that annotate has rejected in each partition
        captioned: the accepted clips of all partitions
        quarantine: the rejected clips of all partitions with rule, value and threshold
        report: the contracts' report
        required_splits: splits that must have a clip, JSON
    """
    from json import loads

    from moworld_ops.components.merge_clips.step import merge_clips as step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(captioned, report, may_be_empty=(quarantine,)) as record:
        clips = [input_path(part) for part in parts]
        quarantines = [input_path(part) for step_parts in (geometry, quality, captions) for part in step_parts]
        paths = {"parts": clips, "quarantines": quarantines, "out": output_path(captioned), "quarantine": quarantine.path, "report": report.path}
        record(step(**paths, required_splits=loads(required_splits)))
