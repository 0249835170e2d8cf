"""The whole way: footage to a promoted INT8 world model."""

from typing import Any

from kfp import dsl

from pipelines.data import data_steps, imported
from pipelines.distill import distill_steps
from pipelines.placement import Placement
from pipelines.pretrain import pretrain_steps
from pipelines.profile import Profile
from pipelines.release import release_steps


def lifecycle_steps(profile: Profile, place: Placement, seed: Any, run: Any, vae: Any = None) -> None:
    """Data, pretraining, distillation and release, one after the other."""
    data = data_steps(profile, place, seed, vae)
    teacher = pretrain_steps(profile, place, data.features, seed)
    distilled = distill_steps(profile, place, data.features, teacher, seed)
    release_steps(profile, place, data.captioned, data.features, teacher, distilled, seed, run)


def lifecycle(profile: Profile, place: Placement) -> Any:
    """Pipeline `lifecycle`: all of `data`, `pretrain`, `distill` and `release`."""
    if profile.codec is not None:

        @dsl.pipeline(name="lifecycle", description="Footage to a promoted INT8 world model")
        def graph(seed: str, run: str):
            lifecycle_steps(profile, place, seed, run)

    else:

        @dsl.pipeline(name="lifecycle", description="Footage to a promoted INT8 world model")
        def graph(seed: str, run: str, vae: str):
            lifecycle_steps(profile, place, seed, run, imported(vae, dsl.Model))

    return graph
