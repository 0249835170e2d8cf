"""The kfp face of `train_autoregressive`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


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
    """Teach the student to continue from ground-truth history, chunk by chunk (paper 4.1 to 4.3).

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

    from components.platform.home import checkpoint_folder
    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(student) as record:
        record(
            run_step(
                "train_autoregressive",
                {
                    "features": features.path,
                    "teacher": teacher.path,
                    "out": student.path,
                    "checkpoints": checkpoint_folder(),
                    "settings": loads(settings),
                    "model": loads(model),
                    "seed": int(seed),
                },
                pool,
            )
        )
