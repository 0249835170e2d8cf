"""Pipeline `release`: student -> INT8 model, benchmarked, registered, and promoted if it passes the gates."""

from typing import Any

from kfp import dsl

from moworld.errors import InputError
from moworld.evaluation.metrics import METRICS
from moworld_ops.components.benchmark.component import benchmark
from moworld_ops.components.promote.component import promote
from moworld_ops.components.quantize.component import quantize
from moworld_ops.components.register.component import register
from moworld_ops.pipelines.data import imported
from moworld_ops.pipelines.placement import Placement
from moworld_ops.pipelines.profile import Profile, text


def release_steps(
    profile: Profile, place: Placement, captioned: Any, features: Any, teacher: Any, distilled: Any, seed: Any, run: Any
) -> None:
    """Adds the release part; parameter `run` makes registration and promotion unique to this run.

    Raises InputError for a gate on a metric that the benchmark of this profile does not measure.
    """
    for name in (name for gate in profile.gates if not profile.benchmark.held_out for name in (gate.metric, gate.above) if name):
        if METRICS[name].held_out:
            fix = "remove the gate, or set benchmark.held_out=true and hold out footage"
            raise InputError("profile", "gates", f"{name}, with benchmark.held_out=false", "metrics that need no held-out clip", fix)
    quantized = quantize(model=distilled, settings=text(profile.quantize), pool=place.pool("quantize"))
    model = place(quantized, "quantize").outputs["quantized"]
    measured = benchmark(
        model=model,
        teacher=teacher,
        unquantized=distilled,
        features=features,
        clips=captioned,
        settings=text(profile.benchmark),
        seed=seed,
        pool=place.pool("benchmark"),
    )
    metrics = place(measured, "benchmark").outputs["metrics"]
    registered = register(model=model, metrics=metrics, features=features, settings=text(profile.registry), run=run)
    registration = place(registered, "register").outputs["registration"]
    place(promote(registration=registration, metrics=metrics, gates=text(profile.gates), run=run), "promote")


def release(profile: Profile, place: Placement) -> Any:
    """Returns the pipeline: quantize, benchmark, register, promote."""

    @dsl.pipeline(name="release", description="A student to a promoted INT8 release")
    def graph(seed: str, run: str, captioned: str, features: str, teacher: str, distilled: str):
        release_steps(
            profile,
            place,
            captioned=imported(captioned, dsl.Dataset),
            features=imported(features, dsl.Dataset),
            teacher=imported(teacher, dsl.Model),
            distilled=imported(distilled, dsl.Model),
            seed=seed,
            run=run,
        )

    return graph
