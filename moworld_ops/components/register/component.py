"""Registers a signed model in MLflow.

The model is signed (OpenSSF), registered with metrics and lineage tags as alias `candidate`, and the stored copy is verified.

Resources: one core
Failure modes: registering the same model of the same run again returns the same version
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def register(
    model: dsl.Input[dsl.Model],
    metrics: dsl.Input[dsl.Artifact],
    features: dsl.Input[dsl.Dataset],
    registration: dsl.Output[dsl.Artifact],
    settings: str,
    run: str,
) -> None:
    """Sign the model and register it in MLflow with metrics and lineage, as alias `candidate`.

    Args:
        model: the model to register
        metrics: output of benchmark
        features: feature shards, for the data revision
        registration: registration.json (name, version, hash, lineage), evidence and signatures
        settings: section `registry` of the profile, JSON
        run: name of this run; empty for the cluster's id of the run
    """
    from json import loads

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path
    from moworld_ops.components.register.step import register as step

    with recorded(registration) as record:
        paths = {"model": input_path(model), "metrics": input_path(metrics), "features": input_path(features), "out": registration.path}
        record(step(**paths, settings=loads(settings), run=run or context().run_id))
