"""Starts or resumes a run on the local engine, and closes it with its record and report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import shipped_path
from moworld.model.settings import BaseSettings
from moworld_ops.components.platform.source import REPOSITORY, code_revision
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.catalog import arguments, build, check_name
from moworld_ops.pipelines.profile import Profile, base_of
from moworld_ops.pipelines.runs import Run

Progress = Callable[[str, dict[str, Any]], None]


def start(pipeline: str, profile: str, overrides: list[str], progress: Progress, announce: Callable[[Run], None]) -> Run:
    """Runs a pipeline and returns the closed run; raises InputError before anything is written."""
    check_name(pipeline)
    name, settings = profiles.load(profile, overrides)
    run = Run.new(pipeline, name)
    _check_disk(run, settings)
    values = arguments(pipeline, name, settings, run.name)
    graph, code = _build(pipeline, settings)
    from moworld_ops.components.platform.images import image, unpublished

    with run.locked():
        images = {"data": image("data"), "unpublished": unpublished()}
        run.begin("local", pipeline, name, settings, arguments=values, code_digest=code, images=images)
        announce(run)
        return _execute(run, graph, values, progress)


def resume(name: str, pipeline: str, profile: str | None, overrides: list[str], progress: Progress, announce: Callable[[Run], None]) -> Run:
    """Continues a run with its own settings, changed by `overrides`; finished steps with unchanged settings are kept."""
    run = Run.existing(name)
    with run.locked():
        record = run.record
        for field, found in (("pipeline", pipeline), ("profile", profile or record["profile"])):
            if found != record[field]:
                raise InputError(run.folder, field, found, f"'{record[field]}', as at the start", f"resume it with {field} {record[field]}")
        settings = profiles.parse(record["settings"], str(run.file), overrides)
        _check_disk(run, settings)
        graph, code = _build(pipeline, settings)
        run.update(settings=settings.model_dump(mode="json"), git_commit=code_revision(), code_digest=code)
        announce(run)
        return _execute(run, graph, record["arguments"], progress)


def _build(pipeline: str, settings: Profile) -> tuple[Any, str]:
    """Returns the compiled pipeline and the digest of the code that its steps run.

    The hash of local base weights is part of the pipeline, so that the first stage is trained again after they changed.
    Raises InputError if they are missing.
    """
    from moworld_ops.pipelines.placement import Local, code_digest

    code, found = code_digest(), ""
    if pipeline in ("data", "pretrain", "lifecycle") and settings.inputs.base:
        from moworld.model.checkpoints.base import base_hash

        places = {name: _absolute(name, getattr(settings.inputs, name)) for name in ("base", "base_low")}
        settings = settings.model_copy(update={"inputs": settings.inputs.model_copy(update=places)})
        found = base_hash(BaseSettings.model_validate_json(base_of(settings)), ("high", "low"))
    return build(pipeline, settings, Local(code, settings.resources, found)), code


def _absolute(name: str, place: str) -> str:
    """Returns a local path as an absolute one (see `shipped_path`); URIs and "" are unchanged. Raises InputError if nothing is there."""
    if not place or "://" in place:
        return place
    if not (found := Path(shipped_path(place)).absolute()).exists():
        fix = f"run from a clone (git clone {REPOSITORY}), or start from nothing with --set inputs.base= --set codec.steps=40"
        raise InputError("profile", f"inputs.{name}", f"no {place}, here or beside the package", "a folder of weights", fix)
    return str(found)


def _check_disk(run: Run, settings: Profile) -> None:
    """Raises InputError if the state folder is not writable or has less free space than the profile needs."""
    import shutil

    from moworld_ops.components.platform.home import writable_home

    folder, needed = writable_home(), settings.resources.disk_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        fix = "free some space, or set MOWORLD_HOME to a larger disk"
        raise InputError(folder, "disk", f"{free / 1e9:.1f} GB free", f"{needed / 1e9:.1f} GB for run {run.name}", fix)


def _execute(run: Run, graph: Any, values: dict[str, str], progress: Progress) -> Run:
    from moworld_ops.pipelines import openlineage
    from moworld_ops.pipelines.engine_local import execute
    from moworld_ops.pipelines.report import close_record

    execute(graph, values, run, progress, lambda: openlineage.announce([openlineage.start_event(run)]))
    close_record(run)
    openlineage.announce(openlineage.end_events(run))
    return run
