"""Doors `moworld run` and `moworld compile`."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, bytes_text, err, out, print_json

PipelineName = Annotated[str, typer.Argument(help="data, pretrain, distill, release or lifecycle (all of them).")]
Profile = Annotated[str | None, typer.Option("--profile", help="Name of a profile, or a .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one value: --set distill.steps=200")]


def run(
    pipeline: PipelineName,
    profile: Profile = None,
    engine: Annotated[str, typer.Option(help="local or kubeflow.")] = "local",
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run (a name, or 'latest'); finished steps are kept.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="kubeflow: start the run and return; see 'moworld runs show'.")] = False,
    schedule: Annotated[
        str | None, typer.Option(help='kubeflow: run again and again, by a cron expression: "0 0 3 * * *" (seconds first).')
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline.

    Example: moworld run lifecycle --profile pocket --set data.videos=my-clips
    """
    if engine not in ("local", "kubeflow"):
        raise InputError("--engine", "", engine, "local or kubeflow", "leave it away for the local engine")
    if engine == "kubeflow" or (resume and _on_cluster(resume)):
        _on_kubeflow(pipeline, profile or "pocket", overrides or [], resume, detach, schedule, json)
        return
    if detach or schedule:
        option = "--schedule" if schedule else "--detach"
        raise InputError(option, "", "engine local", "--engine kubeflow", "add it, or leave the option away")
    from pipelines.runs import summary
    from pipelines.start import resume as go_on
    from pipelines.start import start

    progress = Progress()
    if resume is None:
        done = start(pipeline, profile or "pocket", overrides or [], progress, progress.announce)
    else:
        done = go_on(resume, pipeline, profile, overrides or [], progress, progress.announce)
    progress.stop()
    record = done.record
    if json:
        print_json(summary(done))
    else:
        _print_outcome(record)
    if record["error"]:
        print(record["error"], file=sys.stderr)
        print(f"log: {done.folder / 'log.txt'}; go on with: moworld run {record['pipeline']} --resume {done.name}", file=sys.stderr)
    if record["exit"]:
        raise typer.Exit(int(record["exit"]))


class Progress:
    """A line on stderr for each step that ended, and where a person watches a line that says which one runs."""

    def __init__(self) -> None:
        self.status: Any = None
        self.names: list[str] = []

    def announce(self, run: Any) -> None:
        err.print(f"run {run.name} in {run.folder}", soft_wrap=True)

    def __call__(self, name: str, record: dict[str, Any]) -> None:
        self.stop()
        if record["status"] == "running":
            since = time.strftime("%H:%M:%S", time.localtime(record["started"]))
            self.status = err.status(f"{name} (since {since})")
            self.status.start()
            return
        facts = f"{record.get('seconds', 0):8.1f} s  {bytes_text(record.get('peak_bytes', 0)):>9}"
        err.print(f"  {record['status']:<8} {name:<24} {facts}", soft_wrap=True)

    def stop(self) -> None:
        if self.status is not None:
            self.status.stop()
            self.status = None


def _print_outcome(record: dict[str, Any]) -> None:
    last = record["attempts"][-1]["seconds"]
    outside = (
        f" (outside the steps: {100 * record['orchestration_seconds'] / last:.1f} %)" if last > 1 else ""
    )  # else nothing was left to run
    out.print(f"{record['status']} in {record['seconds']:.1f} s{outside}")
    if record.get("report"):
        out.print(f"report: {record['report']}", soft_wrap=True)
    if record.get("model"):
        model = record["model"]
        out.print(f"model:  {model['name']} version {model['version']} ({model['alias']}), sha256 {model['hash'][:16]}", soft_wrap=True)
        for name, value in scores(record.get("metrics", {})):
            out.print(f"  {name:<44} {value}", soft_wrap=True)


def scores(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers of the metrics under dotted names, short lists of them left out."""
    from components.platform.verification import flat

    return [(name, f"{value:.4g}") for name, value in sorted(flat(metrics).items())]


def compile_(
    pipeline: PipelineName,
    profile: Profile = None,
    to: Annotated[Path, typer.Option("--out", help="Folder for the YAML files.")] = Path("build"),
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Compile a pipeline, or 'all', to KFP IR YAML and validate it.

    Example: moworld compile all --profile wan22-a14b --out build/
    """
    from components.platform.images import unpinned, unpublished
    from pipelines import profile as profiles
    from pipelines.engine_kubeflow import compile_all

    _, settings = profiles.load(profile or "wan22-a14b", overrides)
    found = compile_all([pipeline], settings, to)
    if missing := unpublished():
        print(f"warning: images not pushed yet, their digest is that of their build inputs: {', '.join(missing)}", file=sys.stderr)
    if missing := unpinned():
        print(f"warning: base images that no digest pins (images/README.md): {', '.join(missing)}", file=sys.stderr)
    if json:
        print_json([{"pipeline": name, "path": str(to / f"{name}.yaml"), **facts} for name, facts in found.items()])
        return
    for name, facts in found.items():
        out.print(f"{to / name}.yaml: {facts['tasks']} tasks, {len(facts['trainjobs'])} of them as TrainJobs", soft_wrap=True)


def _on_cluster(name: str) -> bool:
    from pipelines.runs import Run

    return Run.existing(name).on_cluster


def _on_kubeflow(
    pipeline: str, profile: str, overrides: list[str], resume: str | None, detach: bool, schedule: str | None, json: bool
) -> None:
    """Start, or go on with, a run on the cluster and follow it; or schedule it."""
    from pipelines import kubeflow_runs as kubeflow
    from pipelines.runs import Run, summary

    if schedule:
        _schedule(pipeline, profile, overrides, schedule, json)
        return
    run = kubeflow.go_on(Run.existing(resume)) if resume else kubeflow.submit(pipeline, profile, overrides)
    where = run.record["kubeflow"]
    err.print(f"run {run.name} is {where['endpoint']}/#/runs/details/{where['id']}", soft_wrap=True)
    if not detach:
        progress = Progress()
        try:
            kubeflow.watch(run, progress)
        except KeyboardInterrupt:
            err.print(
                f"it goes on without this watch: moworld runs show {run.name}; end it with: moworld runs cancel {run.name}", soft_wrap=True
            )
            raise typer.Exit(130) from None
        finally:
            progress.stop()
    record = run.record
    if json:
        print_json({**summary(run), "id": where["id"]})
    else:
        out.print(f"{record['status']}" + ("" if detach else f" in {record['seconds']:.1f} s"))
    if record["error"]:
        print(f"{record['error']}; go on with: moworld run {record['pipeline']} --resume {run.name}", file=sys.stderr)
    if record.get("exit"):
        raise typer.Exit(int(record["exit"]))


def _schedule(pipeline: str, profile: str, overrides: list[str], cron: str, json: bool) -> None:
    from pipelines.catalog import arguments, build
    from pipelines.kubeflow_runs import Kubeflow, compiled
    from pipelines.placement import Cluster

    if len(cron.split()) != 6:
        wanted = 'six fields, seconds first: "0 0 3 * * *" is every night at three'
        raise InputError("--schedule", "", cron, wanted, "add the field of seconds in front")
    api = Kubeflow()
    name, settings, pipeline_id, version_id = compiled(pipeline, profile, overrides, api)
    # one recurring run has many runs: each takes its own id, which the cluster gives it, as its name
    values = arguments(build(pipeline, settings, Cluster(settings.resources)), name, settings, "", local=False)
    schedule = f"{pipeline}-{name}"
    made = api.schedule(schedule, cron, pipeline_id, version_id, values)
    print_json({"schedule": schedule, "cron": cron, "id": made}) if json else out.print(f"{schedule} runs at {cron} ({made})")
