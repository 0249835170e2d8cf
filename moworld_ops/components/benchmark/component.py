"""Measures a model on held-out episodes.

Generated video is compared with the real one, with baselines next to every number; also speed and memory of the served model.

Resources: two cores with no other load, because speed is measured
Failure modes: no held-out clip: one line, exit status 2. `benchmark.held_out: false` measures speed and size alone
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


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
    """Measure a model on held-out episodes: accuracy next to baselines, camera, speed, memory.

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

    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(metrics) as record:
        models = {"model": input_path(model), "teacher": input_path(teacher), "unquantized": input_path(unquantized)}
        paths = {"features": input_path(features), "clips": input_path(clips), "out": output_path(metrics)}
        record(run_step("benchmark", {**models, **paths, "settings": loads(settings), "seed": int(seed)}, pool))
