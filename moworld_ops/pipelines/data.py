"""Pipeline `data`: footage -> features.

With `data.partitions` above 1, loops over partitions take the place of its steps: Argo, or the local engine, runs partitions side by side.
"""

import json
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from moworld.data.settings import VisionSettings
from moworld_ops.components.annotate.component import annotate
from moworld_ops.components.cache_features.component import cache_features
from moworld_ops.components.check_quality.component import check_quality
from moworld_ops.components.collect.component import collect
from moworld_ops.components.complete_geometry.component import complete_geometry
from moworld_ops.components.merge_clips.component import merge_clips
from moworld_ops.components.merge_features.component import merge_features
from moworld_ops.components.split_sources.component import split_sources
from moworld_ops.components.train_codec.component import train_codec
from moworld_ops.pipelines.placement import Placement
from moworld_ops.pipelines.profile import Profile, base_of, text


@dataclass(frozen=True)
class Data:
    """Outputs of the data part: captioned clips and their features."""

    captioned: Any
    features: Any


def data_steps(profile: Profile, place: Placement, seed: Any, vae: Any = None, append: bool = False) -> Data:
    """Adds the data part; its clips extend the newest data revision if `append`.

    vae: a published autoencoder for profiles that train no codec
    """
    required = json.dumps(["train", "held_out"] if profile.benchmark.held_out else ["train"])
    extends = json.dumps({"registry": profile.registry.data, "append": append, "keep_codec": profile.data.keep_codec})
    partitions = [str(number) for number in range(profile.data.partitions)]
    beside = min(len(partitions), profile.data.partitions_at_once)
    if len(partitions) == 1:
        captioned = _clips(profile, place, seed, required, extends)
    else:
        captioned = _merged_clips(profile, place, seed, required, extends, partitions, beside)
    codec = vae
    if profile.codec is not None:
        base = base_of(profile, place.base_sha256)
        trained = train_codec(clips=captioned, settings=text(profile.codec), data=text(profile.data), seed=seed, base=base)
        codec = place(trained, "train_codec").outputs["codec"]
    encoding = {"clips": captioned, "codec": codec, "data": text(profile.data), "text": text(profile.text), "pool": place.pool("cache_features")}
    versions = {"registry": profile.registry.data, "remote": profile.registry.remote}
    if len(partitions) == 1:
        return Data(captioned, place(cache_features(**encoding, **versions), "cache_features").outputs["features"])
    with dsl.ParallelFor(partitions, parallelism=beside) as partition:
        cached = place(cache_features(**encoding, partition=partition), "cache_features", beside)
    merged = place(merge_features(clips=captioned, parts=dsl.Collected(cached.outputs["features"]), **versions), "merge_features")
    return Data(captioned, merged.outputs["features"])


def _clips(profile: Profile, place: Placement, seed: Any, required: str, extends: str) -> Any:
    """Adds the steps from footage to captioned clips, and returns those."""
    raw = place(collect(settings=text(profile.data), seed=seed, required_splits=required, extends=extends), "collect")
    posed = place(complete_geometry(raw=raw.outputs["clips"], settings=text(profile.geometry)), "complete_geometry")
    checked = place(check_quality(clips=posed.outputs["clips"]), "check_quality")
    scenes = annotate(clips=checked.outputs["accepted"], settings=text(profile.annotation), required_splits=required)
    return place(scenes, "annotate").outputs["captioned"]


def _merged_clips(
    profile: Profile, place: Placement, seed: Any, required: str, extends: str, partitions: list[str], beside: int
) -> Any:
    """Adds a loop with the steps from footage to captioned clips, one iteration a partition, and the step that merges; returns its clips."""
    split = place(split_sources(settings=text(profile.data), required_splits=required), "split_sources")
    with dsl.ParallelFor(partitions, parallelism=beside) as part:
        footage = {"sources": split.outputs["sources"], "partition": part}
        recorded = collect(settings=text(profile.data), seed=seed, required_splits="[]", extends=extends, **footage)
        raw = place(recorded, "collect", beside)
        geometry = complete_geometry(raw=raw.outputs["clips"], settings=text(profile.geometry), partition=part)
        posed = place(geometry, "complete_geometry", beside)
        checked = place(check_quality(clips=posed.outputs["clips"], partition=part), "check_quality", beside)
        budget = _share_of_budget(profile, len(partitions))
        scenes = annotate(clips=checked.outputs["accepted"], settings=text(budget), required_splits="[]", partition=part)
        captioned = place(scenes, "annotate", beside)
    rejected = {"geometry": posed, "quality": checked, "captions": captioned}
    quarantines = {name: dsl.Collected(task.outputs["quarantine"]) for name, task in rejected.items()}
    parts = dsl.Collected(captioned.outputs["captioned"])
    return place(merge_clips(parts=parts, **quarantines, required_splits=required), "merge_clips").outputs["captioned"]


def _share_of_budget(profile: Profile, partitions: int) -> VisionSettings | None:
    """Returns the settings of captions with a partition's share of the budget."""
    settings = profile.annotation
    if settings is None or settings.budget_tokens is None:
        return settings
    return settings.model_copy(update={"budget_tokens": max(1, settings.budget_tokens // partitions)})


def data(profile: Profile, place: Placement) -> Any:
    """Returns the pipeline: collect, complete_geometry, check_quality, annotate, train_codec, cache_features."""
    if profile.codec is not None:

        @dsl.pipeline(name="data", description="Footage to versioned features")
        def graph(seed: str, run: str):
            data_steps(profile, place, seed, append=profile.data.append)

    else:

        @dsl.pipeline(name="data", description="Footage to versioned features")
        def graph(seed: str, run: str, vae: str):
            data_steps(profile, place, seed, imported(vae, dsl.Model), profile.data.append)

    return graph


def imported(uri: Any, kind: Any) -> Any:
    """Returns an existing artifact, by its path or URI."""
    return dsl.importer(artifact_uri=uri, artifact_class=kind, reimport=False).output
