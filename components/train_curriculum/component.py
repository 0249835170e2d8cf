# mypy: disable-error-code="assignment"
"""The kfp face of `train_curriculum`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def train_curriculum(
    features: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    stage: str,
    settings: str,
    seed: str,
    previous: dsl.Input[dsl.Model] = None,
    pool: str = "",
) -> None:
    """Train both experts on one stage of the curriculum, from the weights of the stage before (paper 3.3).

    Args:
        features: feature shards
        model: the world model after this stage
        stage: one entry of section `curriculum` of the profile, JSON
        settings: section `model` of the profile, JSON
        seed: seed of initialisation, sample order and noise
        previous: the world model of the stage before; absent in the first
        pool: where the ranks run, JSON; empty for this process
    """
    from json import loads

    from components.platform.home import checkpoint_folder
    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(model) as record:
        record(
            run_step(
                "train_curriculum",
                {
                    "features": features.path,
                    "previous": previous.path if previous else None,
                    "out": model.path,
                    "checkpoints": checkpoint_folder(),
                    "stage": loads(stage),
                    "model": loads(settings),
                    "seed": int(seed),
                },
                pool,
            )
        )
