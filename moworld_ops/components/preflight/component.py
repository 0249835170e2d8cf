"""Checks the cluster for everything that the run needs, before anything expensive starts.

It changes nothing: one suspended TrainJob per runtime, which starts no pod, is created and deleted. The local engine has no such step: `moworld run` checks disk and inputs before it starts.

Resources: those of a launcher; get and list on queues, runtimes, nodes, claims, secrets, quotas; create and delete on TrainJobs
Failure modes: something is missing: exit status 1 with every missing thing and its fix. The API server does not respond: the step
    fails after a minute of retries.
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def preflight(checks: dsl.Output[dsl.Artifact], settings: str) -> None:
    """Check controllers, queues, quota, claims, secrets, runtimes, nodes, buckets, images and contracts before anything expensive starts.

    Args:
        checks: checks.json: one row per check (name, found, wanted, passed, mend)
        settings: requirements of the compiled profile, JSON
    """
    from json import loads

    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.preflight.step import preflight as step

    with recorded(checks) as record:
        record(step(out=checks.path, settings=loads(settings)))
