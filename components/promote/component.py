"""The kfp face of `promote`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def promote(
    registration: dsl.Input[dsl.Artifact],
    metrics: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    gates: str,
    run: str,
) -> None:
    """Hold the candidate against the champion and the gates; move alias `champion`, or refuse and name the failing gate.

    Args:
        registration: what register wrote
        metrics: what benchmark wrote
        verdict: verdict.json: one row per gate
        gates: section `gates` of the profile, JSON
        run: name of this run; empty for the id that the cluster gave it
    """
    from json import loads
    from os import environ

    from components.platform.steps import recorded
    from components.promote.step import promote as step

    with recorded(verdict) as record:
        record(
            step(
                registration=registration.path,
                metrics=metrics.path,
                out=verdict.path,
                gates=loads(gates),
                run=run or environ["MOWORLD_RUN"],
            )
        )
