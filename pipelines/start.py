"""Starts a run on the local engine, or goes on with one, and closes it with its record and report."""

import os
import time
from collections.abc import Callable
from typing import Any

from components.platform.images import image, unpublished
from moworld.errors import InputError
from pipelines import profile as profiles
from pipelines.catalog import arguments, build
from pipelines.engine_local import Progress, execute, preflight
from pipelines.placement import Here, code_digest
from pipelines.report import close_record
from pipelines.runs import Run, git_commit


def start(pipeline: str, profile: str, overrides: list[str], progress: Progress, announce: Callable[[Run], None]) -> Run:
    """Run a pipeline from its beginning; returns the closed run. Raises InputError before anything is written."""
    name, settings = profiles.load(profile, overrides)
    run = Run.new(pipeline, name)
    graph = build(pipeline, settings, Here(code_digest()))
    values = arguments(graph, name, settings, run.name)
    preflight(run, settings.resources.disk_bytes)
    with run.locked():
        run.update(
            run=run.name,
            pipeline=pipeline,
            profile=name,
            engine="local",
            status="running",
            started=time.time(),
            seeds={"seed": settings.seed},
            settings=settings.model_dump(mode="json"),
            arguments=values,
            git_commit=git_commit(),
            images={"data": image("data"), "unpublished": unpublished()},
        )
        announce(run)
        return _go(run, graph, values, progress)


def resume(name: str, pipeline: str, profile: str | None, overrides: list[str], progress: Progress, announce: Callable[[Run], None]) -> Run:
    """Go on with a run under its own settings, changed by `overrides`; finished steps whose settings stand are kept."""
    run = Run.existing(name)
    with run.locked():
        record = run.record
        for field, found, wanted in (
            ("pipeline", pipeline, record["pipeline"]),
            ("profile", profile or record["profile"], record["profile"]),
        ):
            if found != wanted:
                raise InputError(run.folder, field, found, f"'{wanted}', as this run was started", f"resume it with {field} {wanted}")
        settings = profiles.parse(record["settings"], str(run.file), overrides)
        preflight(run, settings.resources.disk_bytes)
        graph = build(pipeline, settings, Here(code_digest()))
        run.update(settings=settings.model_dump(mode="json"), git_commit=git_commit())
        announce(run)
        return _go(run, graph, record["arguments"], progress)


def _go(run: Run, graph: Any, values: dict[str, str], progress: Progress) -> Run:
    os.environ["MOWORLD_GIT_COMMIT"] = str(run.record["git_commit"])
    execute(graph, values, run, progress)
    close_record(run)
    return run
