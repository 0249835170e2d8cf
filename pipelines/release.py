"""A student to a promoted INT8 release: quantized, measured, registered, and held against the gates."""

from typing import Any

from kfp import dsl

from components.benchmark.component import benchmark
from components.promote.component import promote
from components.quantize.component import quantize
from components.register.component import register
from pipelines.data import imported
from pipelines.placement import Placement
from pipelines.profile import Profile, text


def release_steps(
    profile: Profile, place: Placement, captioned: Any, features: Any, teacher: Any, distilled: Any, seed: Any, run: Any
) -> None:
    """The release part; `run` makes registration and promotion this run's own."""
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
    """Pipeline `release`: quantize, benchmark, register, promote."""

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
