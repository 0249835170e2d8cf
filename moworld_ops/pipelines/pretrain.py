"""Pipeline `pretrain`: features -> teacher, one step per stage of the curriculum (paper 3.3)."""

from typing import Any

from kfp import dsl

from moworld_ops.components.train_curriculum.component import train_curriculum
from moworld_ops.pipelines.data import imported
from moworld_ops.pipelines.placement import Placement
from moworld_ops.pipelines.profile import Profile, base_of, text


def pretrain_steps(profile: Profile, place: Placement, features: Any, seed: Any) -> Any:
    """Adds the curriculum and returns the world model after the last stage; each stage starts from the weights of the previous one."""
    model: dict[str, Any] = {"base": base_of(profile, place.base_sha256)}
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
    """Returns the pipeline: train_curriculum, once per stage."""

    @dsl.pipeline(name="pretrain", description="Features to a teacher: five stages of growing length")
    def graph(seed: str, run: str, features: str):
        pretrain_steps(profile, place, imported(features, dsl.Dataset), seed)

    return graph
