"""Door `moworld runs`: list, show, logs, cancel on both engines; schedules, unschedule, reap on the cluster."""

import sys
from datetime import datetime
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, bytes_text, out, print_json, print_table
from pipelines.runs import Run, all_runs, ordered, summary

app = typer.Typer(help="Runs of this machine and, where KFP_ENDPOINT is set, of the cluster.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A run's name, or 'latest'.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the runs, newest last.

    Example: moworld runs list
    """
    _look()
    rows: list[dict[str, Any]] = [
        {**{key: run.record.get(key) for key in ("run", "pipeline", "profile", "engine", "started", "seconds")}, "status": run.status()}
        for run in all_runs()
    ]
    if json:
        print_json(rows)
        return
    shown = [
        (
            row["run"],
            row["engine"],
            row["status"],
            datetime.fromtimestamp(row["started"]).strftime("%Y-%m-%d %H:%M"),
            f"{row['seconds'] or 0:.0f} s",
        )
        for row in rows
    ]
    print_table("runs", ("run", "engine", "status", "started", "took"), shown)


@app.command()
def show(run: Name = "latest", json: Json = False) -> None:
    """Show a run's steps.

    Example: moworld runs show latest
    """
    _look()
    found = Run.existing(run)
    if json:
        print_json({**summary(found), "status": found.status(), "record": str(found.file)})
        return
    record, live = found.record, found.steps()
    names = [name for name, _ in ordered(record)] or list(live)
    rows = []
    for name in names:
        step = live.get(name, {"status": "waiting"})
        rows.append((name, step["status"], f"{step.get('seconds', 0):.1f} s", bytes_text(step.get("peak_bytes", 0)), step.get("error", "")))
    print_table(f"{found.name}: {found.status()}", ("step", "status", "took", "peak memory", "error"), rows)
    if record.get("report"):
        out.print(f"report: {record['report']}", soft_wrap=True)


@app.command()
def logs(run: Name = "latest") -> None:
    """Print a run's log.

    Example: moworld runs logs latest
    """
    found = Run.existing(run)
    if found.on_cluster:
        from components.platform.pod_logs import run_logs

        for line in run_logs(found.record["kubeflow"]["id"]):
            print(line)
        return
    path = found.folder / "log.txt"
    print(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "", end="")


@app.command()
def cancel(run: Name = "latest") -> None:
    """End a run that is at work; it can be resumed.

    Example: moworld runs cancel latest
    """
    found = Run.existing(run)
    if found.on_cluster:
        from pipelines.kubeflow_runs import Kubeflow, refresh

        api = Kubeflow(found.record["kubeflow"]["endpoint"])
        if (status := refresh(found, api)["status"]) != "running":
            raise InputError(found.folder, "status", status, "a run that is at work", "there is nothing to cancel")
        api.cancel(found.record["kubeflow"]["id"])
    else:
        found.cancel()
    out.print(f"told {found.name} to end")


@app.command()
def schedules(json: Json = False) -> None:
    """List what the cluster runs again and again.

    Example: moworld runs schedules
    """
    from pipelines.kubeflow_runs import Kubeflow

    rows = [
        {
            "schedule": one.display_name,
            "cron": one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else "",
            "id": one.recurring_run_id,
        }
        for one in Kubeflow().schedules()
    ]
    print_json(rows) if json else print_table("schedules", ("schedule", "cron", "id"), [tuple(row.values()) for row in rows])


@app.command()
def unschedule(schedule: Annotated[str, typer.Argument(help="A schedule's name.")]) -> None:
    """Stop running a pipeline again and again; runs that are at work go on.

    Example: moworld runs unschedule data-wan22-a14b
    """
    from pipelines.kubeflow_runs import Kubeflow

    Kubeflow().unschedule(schedule)
    out.print(f"{schedule} is no schedule any more")


@app.command()
def reap(json: Json = False) -> None:
    """Delete TrainJobs whose run is over: what a launcher that was killed has left on the NPU pools.

    Example: moworld runs reap
    """
    from components.platform.cluster import connect, namespace
    from components.platform.trainjobs import reap as delete_left
    from pipelines.kubeflow_runs import Kubeflow

    gone = delete_left(connect(), namespace(), Kubeflow().is_over)
    print_json(gone) if json else out.print(f"deleted {len(gone)} TrainJobs{': ' if gone else ''}{', '.join(gone)}", soft_wrap=True)


def _look() -> None:
    """Bring what is known of runs on the cluster up to date; say so where it cannot be."""
    from pipelines.kubeflow_runs import sync

    if said := sync():
        print(f"as of the last look: {said}", file=sys.stderr)
