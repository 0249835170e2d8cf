"""The pipelines by name, and the sources of their inputs. A pipeline's module is imported when it is built."""

from importlib import import_module
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.pipelines.profile import Profile
from moworld_ops.pipelines.runs import MERGED, Run, latest_output

INPUTS: dict[str, tuple[str, ...]] = {  # inputs of each pipeline; one that makes features needs `vae` if its profile trains no codec
    "data": (),
    "pretrain": ("features",),
    "distill": ("features", "teacher"),
    "release": ("captioned", "features", "teacher", "distilled"),
    "lifecycle": (),
}
PRODUCERS = {  # input: step and output
    "features": ("cache_features", "features"),
    "captioned": ("annotate", "captioned"),
    "teacher": ("train_curriculum", "model"),
    "distilled": ("distill", "distilled"),
}
PIPELINES = tuple(INPUTS)
FROM_RUN = "run:"  # before the name of a run: the input is its output


def check_name(name: str) -> None:
    """Raises InputError for a name that is not in PIPELINES."""
    if name not in PIPELINES:
        raise InputError("pipeline", name, "no such pipeline", f"one of {', '.join(PIPELINES)}", "see 'moworld run --help'")


def build(name: str, profile: Profile, place: Any) -> Any:
    """Returns a compiled pipeline, its tasks placed by `place`; raises InputError for an unknown name."""
    check_name(name)
    return getattr(import_module(f"moworld_ops.pipelines.{name}"), name)(profile, place)


def inputs_of(name: str, profile: Profile) -> tuple[str, ...]:
    """Returns the names of a pipeline's inputs, which section `inputs` of the profile gives. Raises InputError for an unknown pipeline."""
    check_name(name)
    return INPUTS[name] if profile.codec is not None or INPUTS[name] else ("vae",)


def arguments(pipeline: str, profile_name: str, profile: Profile, run: str, local: bool = True) -> dict[str, str]:
    """Returns the parameters of a pipeline: `inputs.NAME` of the profile, else (locally) the newest such output of a run.

    run:RUN becomes the path of that run's output; for a run on the cluster `kubeflow_outputs.resolved` has replaced it by then, or will.
    Imports no kfp, so that a missing input is found before anything is compiled. Raises InputError for it.
    """
    values = {"seed": str(profile.seed), "run": run}
    for name in inputs_of(pipeline, profile):
        given = getattr(profile.inputs, name)
        if not given and (name not in PRODUCERS or not local):
            raise InputError("--set", f"inputs.{name}", "nothing", "a path or URI", f"pass --set inputs.{name}=PATH")
        if given.startswith(FROM_RUN) and local:
            given = _local_output(name, given.removeprefix(FROM_RUN), profile)
        value = values[name] = given or latest_output(*producer(name, profile), profile_name)
        if local and "://" not in value and not Path(value).exists():
            raise InputError(value, f"inputs.{name}", "no such directory", "the output directory of a step", "check the path")
    return values


def _local_output(name: str, run: str, profile: Profile) -> str:
    """Returns the path of the output of a local run that is input `name`. Raises InputError if the run has none."""
    step, output = producer(name, profile)
    found = Run.existing(run)
    if found.on_cluster:
        fix = "name a local run, or run this one with --engine kubeflow"
        raise InputError(f"run {run}", "engine", "a run on the cluster", "a run on this machine", fix)
    if (path := found.output(step, output)) is None:
        done = ", ".join(name for name, record in found.steps().items() if record["status"] == "done") or "none"
        raise InputError(f"run {run}", output, f"finished steps: {done}", f"a run that finished step {step}", "name another run, or a directory")
    return str(path)


def producer(name: str, profile: Profile) -> tuple[str, str]:
    """Returns the step and its output that is input `name` of other pipelines. Raises InputError for an input that no step makes."""
    if name not in PRODUCERS:
        raise InputError("--set", f"inputs.{name}", "a run", "a path or URI: no step makes it", "name a directory")
    step, output = PRODUCERS[name]
    if profile.data.partitions > 1 and step in MERGED:
        step, output = MERGED[step]
    return f"{step}-{len(profile.curriculum)}" if step == "train_curriculum" else step, output
