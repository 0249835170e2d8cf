"""The kfp face of `check_quality`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def check_quality(
    clips: dsl.Input[dsl.Dataset],
    accepted: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    """Measure the clips and hold them against data contract `clips`: accepted, or quarantined with the reason.

    Args:
        clips: clips with cameras
        accepted: clips that keep the contract
        quarantine: rejected rows with rule, value and threshold
        report: the contract's report
    """
    from components.check_quality.step import check_quality as step
    from components.platform.steps import recorded

    with recorded(accepted, report, may_be_empty=(quarantine,)) as record:
        record(step(clips=clips.path, out=accepted.path, quarantine=quarantine.path, report=report.path))
