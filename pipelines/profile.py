"""Profiles: one YAML file each, read into the settings types that stand beside what they configure.

A profile is the only place where sizes stand. Unknown keys are refused with the nearest known name.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from components.platform.registry import RegistrySettings
from moworld.data.annotation import VisionSettings
from moworld.data.sources import DataSettings
from moworld.data.verification import GeometrySettings
from moworld.distillation.autoregressive import AutoregressiveSettings
from moworld.distillation.phases import DistillSettings
from moworld.errors import InputError
from moworld.evaluation.gates import Gate
from moworld.evaluation.protocol import BenchmarkSettings
from moworld.inference.quantization import QuantizeSettings
from moworld.model.codec import CodecSettings
from moworld.model.text import TextSettings
from moworld.model.world import ModelSettings
from moworld.settings import Settings
from moworld.training.curriculum import Stage
from pipelines.placement import Cluster, Resources

FOLDER = Path(__file__).parent / "profiles"


class Inputs(Settings):
    """What a pipeline that starts in the middle takes: paths or URIs; empty for the newest output of an earlier run of the profile."""

    features: str = Field(default="", description="feature shards (pretrain, distill, release)")
    captioned: str = Field(default="", description="captioned clips (release)")
    teacher: str = Field(default="", description="world model after the last stage (distill, release)")
    distilled: str = Field(default="", description="few-step student (release)")
    vae: str = Field(default="", description="a published video autoencoder, where the profile trains no codec")


class Profile(Settings):
    """A whole profile. `codec` is absent where a published autoencoder is used (`inputs.vae`)."""

    seed: int
    data: DataSettings
    geometry: GeometrySettings = GeometrySettings()
    annotation: VisionSettings | None = None  # without one, captions of videos are made of their pixels
    codec: CodecSettings | None = None
    text: TextSettings
    model: ModelSettings
    curriculum: list[Stage]
    autoregressive: AutoregressiveSettings
    distill: DistillSettings
    quantize: QuantizeSettings = QuantizeSettings()
    benchmark: BenchmarkSettings
    gates: list[Gate]
    registry: RegistrySettings
    resources: Resources
    inputs: Inputs = Inputs()


def names() -> list[str]:
    """Names of the profiles that the package carries."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str, overrides: list[str] | None = None) -> tuple[str, Profile]:
    """A profile by name, or by the path of a YAML file, with `a.b=value` overrides (values are YAML).

    Returns its name and itself. Raises InputError for an unknown profile or key, or a value of the wrong kind.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise InputError(
            name_or_path, "", "no such profile", f"one of {', '.join(names())}, or a .yaml file", _nearest(name_or_path, names())
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"text that is not YAML ({error})", "a profile", "mend its syntax") from None
    return path.stem, parse(values, str(path), overrides)


def parse(values: Any, source: str, overrides: list[str] | None = None) -> Profile:
    """A profile from plain values; `source` is named in errors."""
    if not isinstance(values, dict):
        raise InputError(source, "", type(values).__name__, "a mapping of sections", "see pipelines/profiles/pocket.yaml")
    for override in overrides or []:
        _override(values, override)
    try:
        return _checked(Profile(**values), source)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields_at(Profile, first["loc"][:-1])
            mend = _nearest(str(first["loc"][-1]), known)
            raise InputError(source, where, "a key that is not known", f"one of {', '.join(known)}", mend) from None
        raise InputError(source, where, repr(first["input"])[:80], first["msg"], "mend the profile or the --set value") from None


def _checked(profile: Profile, source: str) -> Profile:
    """The profile, if the ranks of its pools can share the batches and the heads of every training step evenly."""
    stages: list[tuple[str, str, Stage | AutoregressiveSettings | DistillSettings]] = [
        ("autoregressive", "train_autoregressive", profile.autoregressive),
        ("distill", "distill", profile.distill),
    ]
    stages += [(f"curriculum.{index}", "train_curriculum", stage) for index, stage in enumerate(profile.curriculum)]
    for field, step, stage in stages:
        share, heads = stage.parallel.ulysses * stage.parallel.ring, profile.model.num_attention_heads
        if heads % stage.parallel.ulysses:
            found, mend = f"{stage.parallel.ulysses} for {heads} heads", "choose a divisor, and a ring for the rest"
            raise InputError(source, f"{field}.parallel.ulysses", found, "a divisor of the heads", mend)
        for pool in Cluster(profile.resources).pools(step):
            ranks = pool.nodes * pool.procs_per_node
            if pool.launches and (ranks % share or stage.batch % (ranks // share)):
                found = f"batch {stage.batch}, {share} ranks a sample, {ranks} ranks"
                mend = "change batch, parallel, or the pool's nodes"
                raise InputError(source, field, found, "ranks / ranks a sample that divides the batch", mend)
    return profile


def text(settings: Settings | Sequence[Settings] | None) -> str:
    """Settings as the JSON string in which they travel: equal settings give equal strings, so kfp's cache key holds what matters."""
    if settings is None:
        return "null"
    if isinstance(settings, Settings):
        return json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return json.dumps([one.model_dump(mode="json") for one in settings], sort_keys=True)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError("--set", override, "no KEY=VALUE", "a dotted key and a value", "write --set distill.steps=200")
    *path, last = key.strip().split(".")
    here: Any = values
    for part in path:
        if isinstance(here, list):
            here = here[_index(key, part, here)]
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
            continue
        if not isinstance(here, dict | list):
            raise InputError("--set", key, f"a single value at '{part}'", "a section", "see the profile for its keys")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", parsed):  # YAML 1.1 takes 1e15 for text
        parsed = float(parsed)
    if isinstance(here, list):
        here[_index(key, last, here)] = parsed
    elif isinstance(here, dict):
        here[last] = parsed
    else:
        raise InputError("--set", key, "a single value above it", "a section", "see the profile for its keys")


def _index(key: str, part: str, items: list[Any]) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise InputError("--set", key, f"'{part}'", f"an index from 0 to {len(items) - 1}", "write --set curriculum.0.steps=10")
    return int(part)


def _fields_at(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the settings type at a place in the profile."""
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            continue
        kinds = [field.annotation, *get_args(field.annotation)]
        kinds += [inner for kind in kinds for inner in get_args(kind)]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "check the spelling"
