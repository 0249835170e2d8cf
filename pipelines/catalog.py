"""The pipelines by name, and where each one's inputs come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from pipelines.data import data
from pipelines.distill import distill
from pipelines.lifecycle import lifecycle
from pipelines.placement import Placement
from pipelines.pretrain import pretrain
from pipelines.profile import Profile
from pipelines.release import release
from pipelines.runs import latest_output

PIPELINES: dict[str, Callable[[Profile, Placement], Any]] = {
    "data": data,
    "pretrain": pretrain,
    "distill": distill,
    "release": release,
    "lifecycle": lifecycle,
}


def build(name: str, profile: Profile, place: Placement) -> Any:
    """A compiled pipeline. Raises InputError for a name that is not one."""
    if name not in PIPELINES:
        raise InputError("pipeline", name, "no such pipeline", f"one of {', '.join(PIPELINES)}", "see 'moworld run --help'")
    return PIPELINES[name](profile, place)


def arguments(pipeline: Any, profile_name: str, profile: Profile, run: str, local: bool = True) -> dict[str, str]:
    """Values of a compiled pipeline's parameters: `inputs.NAME` of the profile, else (locally) the newest such output of an earlier run."""
    producer = {
        "features": ("cache_features", "features"),
        "captioned": ("annotate", "captioned"),
        "teacher": (f"train_curriculum-{len(profile.curriculum)}", "model"),
        "distilled": ("distill", "distilled"),
    }
    values = {"seed": str(profile.seed), "run": run}
    for name in pipeline.pipeline_spec.root.input_definitions.parameters:
        if name in values:
            continue
        given = getattr(profile.inputs, name)
        if not given and (name not in producer or not local):
            raise InputError("--set", f"inputs.{name}", "nothing", "a path or URI", f"pass --set inputs.{name}=PATH")
        values[name] = given or latest_output(*producer[name], profile_name)
        if local:
            _must_exist(name, values[name])
    return values


def _must_exist(name: str, value: str) -> None:
    if "://" not in value and not Path(value).exists():
        raise InputError(value, f"inputs.{name}", "no such folder", "a folder that a step wrote", "check the path")
