# mypy: disable-error-code="assignment"
"""Trains one stage of the curriculum (paper 3.3).

A pipeline uses it once per stage; each stage starts from the weights of the previous one. On a cluster the two experts are two
parallel TrainJobs.

Resources: `pocket`: two cores, below 3 GB; `wan22-a14b`: the pools `high-noise` and `low-noise`
Failure modes: a failed TrainJob fails the step with its message. A lost pod leaves its jobs running, and its successor adopts them.
    The reaper deletes the jobs of a cancelled run.
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def train_curriculum(
    features: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    stage: str,
    settings: str,
    seed: str,
    previous: dsl.Input[dsl.Model] = None,
    base: str = "null",
    pool: str = "",
) -> None:
    """Train both experts on one stage of the curriculum, from the weights of the previous stage (paper 3.3).

    Args:
        features: feature shards
        model: the world model after this stage, in Diffusers layout, with losses.json
        stage: one entry of section `curriculum` of the profile, JSON
        settings: section `model` of the profile, JSON
        seed: seed of initialisation, sample order and noise
        previous: the world model of the previous stage; absent in the first
        base: published weights that the first stage starts from (moworld.model.settings.BaseSettings), JSON; null for fresh weights
        pool: where the ranks run, JSON; empty for this process
    """
    from json import loads

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(model) as record:
        paths = {"features": input_path(features), "previous": input_path(previous) if previous else None, "out": output_path(model)}
        options = {"checkpoints": context().checkpoints, "stage": loads(stage), "model": loads(settings), "seed": int(seed)}
        record(run_step("train_curriculum", {**paths, **options, "base": loads(base)}, pool))
