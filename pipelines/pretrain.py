"""Features to a teacher: the curriculum, one step a stage, each from the weights of the last (paper 3.3)."""

from typing import Any

from kfp import dsl

from components.train_curriculum.component import train_curriculum
from pipelines.data import imported
from pipelines.placement import Placement
from pipelines.profile import Profile, text


def pretrain_steps(profile: Profile, place: Placement, features: Any, seed: Any) -> Any:
    """The world model after the last stage; inside a stage the high- and low-noise expert train side by side."""
    model: dict[str, Any] = {}
    for number, stage in enumerate(profile.curriculum, start=1):
        task = train_curriculum(
            features=features,
            stage=text(stage),
            settings=text(profile.model),
            seed=seed,
            pool=place.pool("train_curriculum"),
            **model,
        )
        model = {"previous": place(task, f"train_curriculum-{number}").outputs["model"]}
    return model["previous"]


def pretrain(profile: Profile, place: Placement) -> Any:
    """Pipeline `pretrain`: train_curriculum, once per stage."""

    @dsl.pipeline(name="pretrain", description="Features to a teacher: five stages of growing length")
    def graph(seed: str, run: str, features: str):
        pretrain_steps(profile, place, imported(features, dsl.Dataset), seed)

    return graph
