"""Pipeline `data`: footage -> features."""

import json
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from moworld_ops.components.annotate.component import annotate
from moworld_ops.components.cache_features.component import cache_features
from moworld_ops.components.check_quality.component import check_quality
from moworld_ops.components.collect.component import collect
from moworld_ops.components.complete_geometry.component import complete_geometry
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
    raw = place(collect(settings=text(profile.data), seed=seed, required_splits=required, extends=extends), "collect")
    posed = place(complete_geometry(raw=raw.outputs["clips"], settings=text(profile.geometry)), "complete_geometry")
    checked = place(check_quality(clips=posed.outputs["clips"]), "check_quality")
    scenes = annotate(clips=checked.outputs["accepted"], settings=text(profile.annotation), required_splits=required)
    captioned = place(scenes, "annotate").outputs["captioned"]
    codec = vae
    if profile.codec is not None:
        base = base_of(profile, place.base_sha256)
        trained = train_codec(clips=captioned, settings=text(profile.codec), data=text(profile.data), seed=seed, base=base)
        codec = place(trained, "train_codec").outputs["codec"]
    cached = cache_features(
        clips=captioned,
        codec=codec,
        data=text(profile.data),
        text=text(profile.text),
        registry=profile.registry.data,
        remote=profile.registry.remote,
        pool=place.pool("cache_features"),
    )
    return Data(captioned, place(cached, "cache_features").outputs["features"])


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
