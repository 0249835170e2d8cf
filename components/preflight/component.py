"""The kfp face of `preflight`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def preflight(checks: dsl.Output[dsl.Artifact], settings: str) -> None:
    """Look at queues, quota, claims, secrets, runtimes, nodes, buckets, images and contracts before anything expensive starts.

    Args:
        checks: checks.json: one row per check
        settings: what the compiled profile stands on, JSON
    """
    from json import loads

    from components.platform.steps import recorded
    from components.preflight.step import preflight as step

    with recorded(checks) as record:
        record(step(out=checks.path, settings=loads(settings)))
