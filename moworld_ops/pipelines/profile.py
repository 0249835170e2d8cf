"""Profiles: one YAML file each, read into the settings types of the library. Imports no torch and no kfp.

A profile is the only place with sizes. Unknown keys are rejected with the nearest known name.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError

from moworld.data.settings import DataSettings, GeometrySettings, VisionSettings
from moworld.distillation.settings import AutoregressiveSettings, DistillSettings
from moworld.documents import parse_yaml
from moworld.errors import InputError, invalid_value, shown
from moworld.evaluation.gates import Gate
from moworld.evaluation.settings import BenchmarkSettings
from moworld.inference.settings import QuantizeSettings
from moworld.model.settings import BaseSettings, CodecSettings, ModelSettings, TextSettings
from moworld.settings import Seed, Settings
from moworld.training.settings import Stage
from moworld_ops.components.platform.image_settings import ImageSettings
from moworld_ops.components.platform.registry import RegistrySettings
from moworld_ops.pipelines.resources import Resources

FOLDER = Path(__file__).parent / "profiles"
LARGEST_FROM_SCRATCH = 1e9  # parameters of an expert


class Inputs(Settings):
    """Inputs of a pipeline that does not start with footage: paths, URIs, or run:RUN for the output of that run.

    Empty is the newest output of a run of the profile.
    """

    features: str = Field(default="", description="feature shards (pretrain, distill, release)")
    captioned: str = Field(default="", description="captioned clips (release)")
    teacher: str = Field(default="", description="world model after the last stage (distill, release)")
    distilled: str = Field(default="", description="few-step student (release)")
    base: str = Field(default="", description="published weights that the curriculum starts from (pretrain); empty for fresh weights")
    base_low: str = Field(default="", description="weights with the low-noise expert, if the base has the high-noise one only")
    base_licence: str = Field(default="not stated", description="licence of the base weights, for the gates")
    vae: str = Field(default="", description="a published video autoencoder, if the profile trains no codec")


class Profile(Settings):
    """A whole profile. Without `codec` a published autoencoder is used (`inputs.vae`)."""

    seed: Seed
    data: DataSettings
    geometry: GeometrySettings = GeometrySettings()
    annotation: VisionSettings | None = None  # None: captions of videos are composed from their pixels
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
    images: ImageSettings = ImageSettings()
    inputs: Inputs = Inputs()


def base_of(profile: Profile, sha256: str = "") -> str:
    """Returns parameter `base` of the curriculum's first stage, JSON; sha256 is the hash of its weights, if known.

    Raises InputError if a model of this size has no base: from fresh weights its curriculum would be far too short.
    """
    given, model = profile.inputs, profile.model
    if given.base:
        return text(BaseSettings(source=given.base, low=given.base_low, licence=given.base_licence, sha256=sha256))
    width = model.num_attention_heads * model.attention_head_dim
    parameters = model.num_layers * width * (8 * width + 2 * model.ffn_dim)  # of the products in the blocks
    if parameters > LARGEST_FROM_SCRATCH:
        fix = "set inputs.base to Wan2.2-I2V-A14B or another base"
        raise InputError("profile", "inputs.base", "nothing", f"published weights for experts of {parameters / 1e9:.1f} B parameters", fix)
    return "null"


def names() -> list[str]:
    """Returns the names of the profiles in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str, overrides: list[str] | None = None, check_ranks: bool = True) -> tuple[str, Profile]:
    """Returns the name and the profile, by name or by the path of a YAML file, with `a.b=value` overrides (values are YAML).

    check_ranks: whether the ranks of each pool must share every batch evenly; without it `ring_for` says how they could
    Raises InputError for an unknown profile or key, or an invalid value.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        known = names()
        raise InputError(name_or_path, "", "no such profile", f"one of {', '.join(known)}, or a .yaml file", _nearest(name_or_path, known))
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(path, "", f"text that is not YAML ({error})", "a profile", "correct its syntax") from None
    profile = parse(parse_yaml(content, path, "a profile"), str(path), overrides, check_ranks)
    name = path.stem if path.parent == FOLDER else str(path)  # only the package's profiles have a plain name
    return path.stem, profile.model_copy(update={"registry": profile.registry.model_copy(update={"profile": name})})


def parse(values: Any, source: str, overrides: list[str] | None = None, check_ranks: bool = True) -> Profile:
    """Returns a profile from plain values; `source` is the file in errors."""
    if not isinstance(values, dict):
        raise InputError(source, "", type(values).__name__, "a mapping of sections", "see moworld_ops/pipelines/profiles/pocket.yaml")
    for override in overrides or []:
        _override(values, override)
    try:
        profile = Profile(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = _place_of(first["loc"], values)
        changed = [f"{override.partition('=')[0].strip()}." for override in overrides or []]
        file = "--set" if any(key.startswith(f"{where}.") or f"{where}.".startswith(key) for key in changed) else source
        if first["type"] == "extra_forbidden":
            known = _fields_at(Profile, first["loc"][:-1])
            fix = _nearest(str(first["loc"][-1]), known)
            raise InputError(file, where, "an unknown key", f"one of {', '.join(known)}", fix) from None
        expected = invalid_value(file, error, "").expected
        raise InputError(file, where, shown(first.get("input")), expected, "correct it there") from None
    _check_pools(profile.resources, source)
    _check_ranks(profile, source, check_ranks)
    return profile


def _check_pools(resources: Resources, source: str) -> None:
    """Raises InputError for a step on a pool that does not exist, or that it cannot use."""
    for step in resources.steps:
        field, names = f"resources.steps.{step}", resources.pool_names(step)
        for name in names:
            if name not in resources.pools:
                expected = f"one of {', '.join(resources.pools) or 'the pools, of which there are none'}"
                raise InputError(source, field, name, expected, _nearest(name, list(resources.pools)))
        if len(names) > 1 and [pool.kind for pool in resources.pools_of(step)] != ["trainjob", "trainjob"]:
            raise InputError(source, field, ", ".join(names), "one pool, or a pool of kind trainjob for each expert", "name one pool")
    for step in ("cache_features", "quantize", "benchmark"):
        for name, pool in zip(resources.pool_names(step), resources.pools_of(step), strict=True):
            if pool.num_ranks > 1:
                found, fix = f"{name} with {pool.num_ranks} ranks", f"name another pool in resources.steps.{step}"
                raise InputError(source, f"resources.steps.{step}", found, "a pool of one process: ranks do not share this step", fix)


def _training_steps(profile: Profile) -> list[tuple[str, str, Stage | AutoregressiveSettings | DistillSettings]]:
    """Returns the place in the profile, the step and the settings of each training."""
    stages: list[tuple[str, str, Stage | AutoregressiveSettings | DistillSettings]] = [
        ("autoregressive", "train_autoregressive", profile.autoregressive),
        ("distill", "distill", profile.distill),
    ]
    return stages + [(f"curriculum.{index}", "train_curriculum", stage) for index, stage in enumerate(profile.curriculum)]


def ring_for(stage: Stage | AutoregressiveSettings | DistillSettings, ranks: int) -> int | None:
    """Returns the smallest multiple of a stage's ring with which so many ranks share its batch evenly; None if there is none."""
    rings = range(stage.parallel.ring, ranks // stage.parallel.ulysses + 1, stage.parallel.ring)
    return next((ring for ring in rings if _shares_evenly(stage, ranks, ring)), None)


def _shares_evenly(stage: Stage | AutoregressiveSettings | DistillSettings, ranks: int, ring: int) -> bool:
    share = stage.parallel.ulysses * ring
    return ranks % share == 0 and stage.batch % (ranks // share) == 0


def _check_ranks(profile: Profile, source: str, batches: bool) -> None:
    """Raises InputError unless the ranks of each pool can share heads, and if `batches` the batch, of every training step evenly."""
    for field, step, stage in _training_steps(profile):
        share, heads = stage.parallel.ulysses * stage.parallel.ring, profile.model.num_attention_heads
        if heads % stage.parallel.ulysses:
            found, fix = f"{stage.parallel.ulysses} for {heads} heads", "choose a divisor, and a ring for the rest"
            raise InputError(source, f"{field}.parallel.ulysses", found, "a divisor of the number of heads", fix)
        for pool in profile.resources.pools_of(step):
            ranks = pool.num_ranks
            if ranks > 1 and not (_shares_evenly(stage, ranks, stage.parallel.ring) if batches else ring_for(stage, ranks)):
                found, fix = f"batch {stage.batch}, {share} ranks a sample, {ranks} ranks", "change batch, parallel, or the pool's nodes"
                raise InputError(source, field, found, "ranks / ranks a sample that divides the batch", fix)


def text(settings: Settings | Sequence[Settings] | None) -> str:
    """Returns settings as a JSON parameter of a step; equal settings give equal strings, because kfp's cache key contains them."""
    if settings is None or isinstance(settings, Settings):
        return json.dumps(settings and settings.model_dump(mode="json"), sort_keys=True)
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
        else:
            break
    if not isinstance(here, dict | list):
        raise InputError("--set", key, "a single value above it", "a section", "see the profile for its keys")
    plain = value.strip()
    if not plain or (not plain.startswith(("'", '"', "[", "{")) and re.search(r"(^|\s)#", plain)):  # YAML reads nothing as null, and /x/take #2 as a comment
        parsed: Any = plain
    else:
        try:
            parsed = parse_yaml(value, "--set", "a value")
        except InputError:
            parsed = value
    if isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", parsed):  # YAML 1.1 reads 1e15 as text
        parsed = float(parsed)
    where: Any = _index(key, last, here) if isinstance(here, list) else last
    here[where] = parsed


def _index(key: str, part: str, items: list[Any]) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise InputError("--set", key, f"'{part}'", f"an index from 0 to {len(items) - 1}", "write --set curriculum.0.steps=10")
    return int(part)


def _fields_at(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Returns the field names of the settings type at a place in the profile."""
    for part in loc:
        field = model.model_fields.get(part)
        if field is None:  # an index, or the tag of a union
            continue
        kinds = _models(field.annotation)
        model = next(
            (kind for kind in kinds if "kind" in kind.model_fields and kind.model_fields["kind"].default in loc), next(iter(kinds), model)
        )
    return list(model.model_fields)


def _place_of(loc: tuple[int | str, ...], values: Any) -> str:
    """Returns a place in the profile as a user writes it: without the tags that pydantic adds for the kind of a pool."""
    keys, here = [], values
    for part in loc:
        if isinstance(here, dict) and part not in here and here.get("kind", "here") == part:
            continue
        keys.append(str(part))
        inside = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int) and part < len(here))
        here = here[part] if inside else None
    return ".".join(keys)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Returns the settings types in a type such as dict[str, A | B]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "check the spelling"
