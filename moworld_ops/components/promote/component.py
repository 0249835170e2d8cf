"""Compares the candidate with the champion by the gates.

If all gates pass, alias `champion` moves and the ledger gets a line. Otherwise the step is refused with value and threshold of each
failed gate.

Resources: one core
Failure modes: a failed gate: exit status 1, the alias is unchanged
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def promote(
    registration: dsl.Input[dsl.Artifact],
    metrics: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    gates: str,
    run: str,
) -> None:
    """Compare the candidate with the champion and the gates; move alias `champion`, or refuse with the failed gate.

    Args:
        registration: output of register
        metrics: output of benchmark
        verdict: verdict.json: one row per gate
        gates: section `gates` of the profile, JSON
        run: name of this run; empty for the cluster's id of the run
    """
    from json import loads

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path
    from moworld_ops.components.promote.step import promote as step

    with recorded(verdict) as record:
        paths = {"registration": input_path(registration), "metrics": input_path(metrics), "out": verdict.path}
        record(step(**paths, gates=loads(gates), run=run or context().run_id))
