"""Distils the student by self-forcing distribution matching (paper 4.4).

The student rolls out, a fake model follows its distribution, and the teacher scores both. `consistency` in section `distill` adds an
initial phase (absent: none).

Resources: as train_curriculum, with three models in memory
Failure modes: as train_curriculum
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def distill(
    features: dsl.Input[dsl.Dataset],
    teacher: dsl.Input[dsl.Model],
    student: dsl.Input[dsl.Model],
    distilled: dsl.Output[dsl.Model],
    settings: str,
    seed: str,
    pool: str = "",
) -> None:
    """Distil the student to a few denoising steps on its own rollouts, with alternating fake and student phases (paper 4.4).

    Args:
        features: feature shards
        teacher: the world model after the last stage
        student: the autoregressive student
        distilled: the few-step student
        settings: section `distill` of the profile, JSON
        seed: seed of sample order and noise
        pool: where the ranks run, JSON; empty for this process
    """
    from json import loads

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(distilled) as record:
        paths = {"features": input_path(features), "teacher": input_path(teacher), "student": input_path(student), "out": output_path(distilled)}
        options = {"checkpoints": context().checkpoints, "settings": loads(settings), "seed": int(seed)}
        record(run_step("distill", paths | options, pool))
