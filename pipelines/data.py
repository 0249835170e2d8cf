"""Footage to features: the data part of the lifecycle."""

from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.annotate.component import annotate
from components.cache_features.component import cache_features
from components.check_quality.component import check_quality
from components.collect.component import collect
from components.complete_geometry.component import complete_geometry
from components.train_codec.component import train_codec
from pipelines.placement import Placement
from pipelines.profile import Profile, text


@dataclass(frozen=True)
class Data:
    """What the later parts take: captioned clips and their features."""

    captioned: Any
    features: Any


def data_steps(profile: Profile, place: Placement, seed: Any, vae: Any = None) -> Data:
    """The data part; `vae` is a published autoencoder for profiles that train no codec."""
    raw = place(collect(settings=text(profile.data), seed=seed), "collect")
    posed = place(complete_geometry(raw=raw.outputs["clips"], settings=text(profile.geometry), seed=seed), "complete_geometry")
    checked = place(check_quality(clips=posed.outputs["clips"]), "check_quality")
    captioned = place(annotate(clips=checked.outputs["accepted"], settings=text(profile.annotation)), "annotate").outputs["captioned"]
    codec = vae
    if profile.codec is not None:
        trained = train_codec(clips=captioned, settings=text(profile.codec), data=text(profile.data), seed=seed)
        codec = place(trained, "train_codec").outputs["codec"]
    cached = cache_features(
        clips=captioned,
        codec=codec,
        data=text(profile.data),
        text=text(profile.text),
        seed=seed,
        registry=profile.registry.data,
        remote=profile.registry.remote,
        pool=place.pool("cache_features"),
    )
    return Data(captioned, place(cached, "cache_features").outputs["features"])


def data(profile: Profile, place: Placement) -> Any:
    """Pipeline `data`: collect, complete_geometry, check_quality, annotate, train_codec, cache_features."""
    if profile.codec is not None:

        @dsl.pipeline(name="data", description="Footage to versioned features")
        def graph(seed: str, run: str):
            data_steps(profile, place, seed)

    else:

        @dsl.pipeline(name="data", description="Footage to versioned features")
        def graph(seed: str, run: str, vae: str):
            data_steps(profile, place, seed, imported(vae, dsl.Model))

    return graph


def imported(uri: Any, kind: Any) -> Any:
    """An artifact that already lies somewhere."""
    return dsl.importer(artifact_uri=uri, artifact_class=kind, reimport=False).output
