"""Trains the student to continue from ground-truth history, with the anchor loss (paper 4.1 to 4.3).

Resources: as train_curriculum
Failure modes: as train_curriculum
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def train_autoregressive(
    features: dsl.Input[dsl.Dataset],
    teacher: dsl.Input[dsl.Model],
    student: dsl.Output[dsl.Model],
    settings: str,
    model: str,
    seed: str,
    pool: str = "",
) -> None:
    """Train the student to continue from ground-truth history, chunk by chunk, with the anchor loss (paper 4.1 to 4.3).

    Args:
        features: feature shards
        teacher: the world model after the last stage
        student: the autoregressive student
        settings: section `autoregressive` of the profile, JSON
        model: section `model` of the profile, JSON
        seed: seed of sample order and noise
        pool: where the ranks run, JSON; empty for this process
    """
    from json import loads

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(student) as record:
        paths = {"features": input_path(features), "teacher": input_path(teacher), "out": output_path(student), "checkpoints": context().checkpoints}
        options = {"settings": loads(settings), "model": loads(model), "seed": int(seed)}
        record(run_step("train_autoregressive", paths | options, pool))
