"""The kfp face of `distill`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


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
    """Distil the student to a few denoising steps on its own rollouts, fake and student phases in turn (paper 4.4).

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

    from components.platform.home import checkpoint_folder
    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(distilled) as record:
        record(
            run_step(
                "distill",
                {
                    "features": features.path,
                    "teacher": teacher.path,
                    "student": student.path,
                    "out": distilled.path,
                    "checkpoints": checkpoint_folder(),
                    "settings": loads(settings),
                    "seed": int(seed),
                },
                pool,
            )
        )
