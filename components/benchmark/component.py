"""The kfp face of `benchmark`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def benchmark(
    model: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    unquantized: dsl.Input[dsl.Model],
    features: dsl.Input[dsl.Dataset],
    clips: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Artifact],
    settings: str,
    seed: str,
    pool: str = "",
) -> None:
    """Measure a model on held-out episodes: accuracy beside baselines, camera, speed, memory.

    Args:
        model: the INT8 student
        teacher: the world model after the last stage
        unquantized: the few-step student in full precision
        features: feature shards
        clips: captioned clips, for the held-out frames
        metrics: metrics.json and sample videos
        settings: section `benchmark` of the profile, JSON
        seed: seed of the sampled noise
        pool: where the step runs, JSON; empty for this process
    """
    from json import loads

    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(metrics) as record:
        record(
            run_step(
                "benchmark",
                {
                    "model": model.path,
                    "teacher": teacher.path,
                    "unquantized": unquantized.path,
                    "features": features.path,
                    "clips": clips.path,
                    "out": metrics.path,
                    "settings": loads(settings),
                    "seed": int(seed),
                },
                pool,
            )
        )
