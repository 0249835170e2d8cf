"""Every number in a settings type has a range, and what is outside is refused."""

import importlib
import math
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
from pydantic import ValidationError

import moworld
import moworld_ops
from moworld.model.settings import CodecSettings, ModelSettings
from moworld.model.world import WorldConfig
from moworld.settings import Settings

LARGEST = 1e24  # of any bound
DEFINITION = re.compile(r"^class \w+\(.*\b_?(Settings|Stage|Pod|Nodes|TrainJob)\)", re.M)


def settings_types() -> list[type[Settings]]:
    """Returns every settings type of modules whose source names the base class."""
    for package in (moworld, moworld_ops):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            spec = importlib.util.find_spec(module.name)
            if spec and spec.origin and DEFINITION.search(Path(spec.origin).read_text(encoding="utf-8")):
                importlib.import_module(module.name)
    found, waiting = [], [Settings]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        found += [kind for kind in kinds if kind.__module__.startswith("moworld")]
        waiting += kinds
    return sorted(set(found), key=lambda kind: (kind.__module__, kind.__name__))


def numbers(annotation: Any, metadata: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the metadata of every number in a type such as tuple[Annotated[float, ...], float] | None."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return numbers(inner, (*metadata, *more))
    if annotation in (int, float):
        flat = [part for one in metadata for part in (getattr(one, "metadata", None) or [one])]
        return [tuple(flat)]
    return [found for inner in get_args(annotation) for found in numbers(inner, metadata)]


def bounds(metadata: tuple[Any, ...], *kinds: type) -> list[float]:
    return [value for one in metadata for kind in kinds if isinstance(one, kind) for value in [getattr(one, kind.__name__.lower())]]


def test_every_number_in_a_settings_type_has_one_smallest_and_one_largest_value():
    types, problems, count = settings_types(), [], 0
    assert {"Profile", "WorldConfig", "Torchrun", "WalkSettings", "DistillSettings", "Gate"} <= {kind.__name__ for kind in types}
    for kind in types:
        for name, field in kind.model_fields.items():
            for metadata in numbers(field.annotation, tuple(field.metadata)):
                count += 1
                low = bounds(metadata, annotated_types.Ge, annotated_types.Gt)
                high = bounds(metadata, annotated_types.Le, annotated_types.Lt)
                # of two bounds of one kind pydantic takes the last one, so that a tighter one in a field would have no effect
                if len(low) != 1 or len(high) != 1 or not -LARGEST <= low[0] < high[0] <= LARGEST:
                    problems.append(f"{kind.__name__}.{name}: at least {low}, at most {high}")
    assert not problems, "\n".join(problems)
    assert count > 150


SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 256, "text_dim": 384}
WORLD = {"model": SIZES, "text": {"kind": "minilm", "length": 4}, "height": 64, "width": 96, "fps": 16.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("fps", value) for value in (0, -1, math.nan, math.inf, 1e9)],
        *[("move_units", value) for value in (0, -1, math.nan, -math.inf)],
        *[("yaw_degrees", value) for value in (0, math.nan, 1e4)],
        *[("intrinsics", (0.5, value, 0.5, 0.5)) for value in (0, -1, math.nan, math.inf)],
        *[("height", value) for value in (0, -16, 10**6)],
        ("experts", ()),
    ],
)
def test_a_number_outside_its_range_is_refused_in_a_model_folder(key, value):
    assert WorldConfig.model_validate(WORLD)
    with pytest.raises(ValidationError, match=key):
        WorldConfig.model_validate({**WORLD, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 10**8), ("num_layers", 0), ("chunk_latents", 10**6), ("boundary", math.nan), ("boundary", 2), ("patch_size", (1, 2, 10**6)),
     ("shift", math.inf), ("camera_gate", math.nan), ("student_steps", 10**9), ("history", {"recent": 10**9})],
)  # fmt: skip
def test_sizes_that_no_machine_can_build_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        ModelSettings.model_validate({**SIZES, key: value})


@pytest.mark.parametrize("field", ["num_layers", "shift"])
def test_true_is_no_number(field):
    with pytest.raises(ValidationError, match=r"a valid \w+"):
        ModelSettings.model_validate({**SIZES, field: True})
    assert CodecSettings(warp=True).warp is True
