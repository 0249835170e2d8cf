"""The pipelines by name, and the sources of their inputs. A pipeline's module is imported when it is built."""

from importlib import import_module
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.pipelines.profile import Profile
from moworld_ops.pipelines.runs import latest_output

PIPELINES = ("data", "pretrain", "distill", "release", "lifecycle")


def check_name(name: str) -> None:
    """Raises InputError for a name that is not in PIPELINES."""
    if name not in PIPELINES:
        raise InputError("pipeline", name, "no such pipeline", f"one of {', '.join(PIPELINES)}", "see 'moworld run --help'")


def build(name: str, profile: Profile, place: Any) -> Any:
    """Returns a compiled pipeline, its tasks placed by `place`; raises InputError for an unknown name."""
    check_name(name)
    return getattr(import_module(f"moworld_ops.pipelines.{name}"), name)(profile, place)


def arguments(pipeline: Any, profile_name: str, profile: Profile, run: str, local: bool = True) -> dict[str, str]:
    """Returns the parameters of a compiled pipeline: `inputs.NAME` of the profile, else (locally) the newest such output of a run."""
    producer = {
        "features": ("cache_features", "features"),
        "captioned": ("annotate", "captioned"),
        "teacher": (f"train_curriculum-{len(profile.curriculum)}", "model"),
        "distilled": ("distill", "distilled"),
    }
    values = {"seed": str(profile.seed), "run": run}
    for name in set(pipeline.pipeline_spec.root.input_definitions.parameters) - set(values):
        given = getattr(profile.inputs, name)
        if not given and (name not in producer or not local):
            raise InputError("--set", f"inputs.{name}", "nothing", "a path or URI", f"pass --set inputs.{name}=PATH")
        value = values[name] = given or latest_output(*producer[name], profile_name)
        if local and "://" not in value and not Path(value).exists():
            raise InputError(value, f"inputs.{name}", "no such directory", "the output directory of a step", "check the path")
    return values
