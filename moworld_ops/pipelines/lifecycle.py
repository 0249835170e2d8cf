"""Pipeline `lifecycle`: footage -> promoted INT8 world model."""

from typing import Any

from kfp import dsl

from moworld_ops.pipelines.data import data_steps, imported
from moworld_ops.pipelines.distill import distill_steps
from moworld_ops.pipelines.placement import Placement
from moworld_ops.pipelines.pretrain import pretrain_steps
from moworld_ops.pipelines.profile import Profile
from moworld_ops.pipelines.release import release_steps


def lifecycle_steps(profile: Profile, place: Placement, seed: Any, run: Any, vae: Any = None) -> None:
    """Adds data, pretraining, distillation and release, in this order."""
    data = data_steps(profile, place, seed, vae)
    teacher = pretrain_steps(profile, place, data.features, seed)
    distilled = distill_steps(profile, place, data.features, teacher, seed)
    release_steps(profile, place, data.captioned, data.features, teacher, distilled, seed, run)


def lifecycle(profile: Profile, place: Placement) -> Any:
    """Returns the pipeline: all of `data`, `pretrain`, `distill` and `release`."""
    if profile.codec is not None:

        @dsl.pipeline(name="lifecycle", description="Footage to a promoted INT8 world model")
        def graph(seed: str, run: str):
            lifecycle_steps(profile, place, seed, run)

    else:

        @dsl.pipeline(name="lifecycle", description="Footage to a promoted INT8 world model")
        def graph(seed: str, run: str, vae: str):
            lifecycle_steps(profile, place, seed, run, imported(vae, dsl.Model))

    return graph
