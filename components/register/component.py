"""The kfp face of `register`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


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
        metrics: what benchmark wrote
        features: feature shards, for the data revision
        registration: registration.json: name, version, hash, lineage
        settings: section `registry` of the profile, JSON
        run: name of this run; empty for the id that the cluster gave it
    """
    from json import loads
    from os import environ

    from components.platform.steps import recorded
    from components.register.step import register as step

    with recorded(registration) as record:
        record(
            step(
                model=model.path,
                metrics=metrics.path,
                features=features.path,
                out=registration.path,
                settings=loads(settings),
                run=run or environ["MOWORLD_RUN"],
            )
        )
