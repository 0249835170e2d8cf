"""Pipeline `distill`: teacher -> few-step autoregressive student (paper 4)."""

from typing import Any

from kfp import dsl

from moworld_ops.components.distill.component import distill as distill_component
from moworld_ops.components.train_autoregressive.component import train_autoregressive
from moworld_ops.pipelines.data import imported
from moworld_ops.pipelines.placement import Placement
from moworld_ops.pipelines.profile import Profile, text


def distill_steps(profile: Profile, place: Placement, features: Any, teacher: Any, seed: Any) -> Any:
    """Adds the distillation part and returns the few-step student."""
    student = train_autoregressive(
        features=features,
        teacher=teacher,
        settings=text(profile.autoregressive),
        model=text(profile.model),
        seed=seed,
        pool=place.pool("train_autoregressive"),
    )
    few_step = distill_component(
        features=features,
        teacher=teacher,
        student=place(student, "train_autoregressive").outputs["student"],
        settings=text(profile.distill),
        seed=seed,
        pool=place.pool("distill"),
    )
    return place(few_step, "distill").outputs["distilled"]


def distill(profile: Profile, place: Placement) -> Any:
    """Returns the pipeline: train_autoregressive, distill."""

    @dsl.pipeline(name="distill", description="A teacher to a few-step autoregressive student")
    def graph(seed: str, run: str, features: str, teacher: str):
        distill_steps(profile, place, imported(features, dsl.Dataset), imported(teacher, dsl.Model), seed)

    return graph
