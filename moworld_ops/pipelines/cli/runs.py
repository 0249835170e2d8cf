"""CLI commands `runs list`, `show`, `logs`, `cancel`, `prune`; on a cluster also `schedules`, `unschedule`, `reap`."""

from typing import Annotated, Any

import typer

from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Commands, Json, option
from moworld_ops.pipelines.cli.output import bytes_text, date_text, note, print_json, print_result, print_rows, print_table
from moworld_ops.pipelines.runs import Run, all_runs, cluster_endpoints, ordered, summary, unreadable_runs

app = Commands(help="List, inspect and cancel runs of this machine and, if KFP_ENDPOINT is set, of the cluster.")
Name = Annotated[str, typer.Argument(help="A run's name, or 'latest'.", autocompletion=completion.runs)]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the runs, newest last.

    Example: moworld runs list
    """
    _synchronize()
    keys = ("run", "pipeline", "profile", "engine", "started", "seconds")
    rows: list[dict[str, Any]] = [{**{key: run.record.get(key) for key in keys}, "run": run.name, "status": run.status()} for run in all_runs()]
    shown = [
        (
            row["run"],
            row["engine"],
            row["status"],
            date_text(row["started"] or 0),
            f"{row['seconds'] or 0:.0f} s",
        )
        for row in rows
    ]
    for name, problem in unreadable_runs().items():
        rows.append({**dict.fromkeys(keys), "run": name, "status": "unreadable", "error": problem})
        shown.append((name, "", "unreadable", "", ""))
        note(f"warning: {problem}")
    print_rows(json, rows, "runs", ("run", "engine", "status", "started", "took"), shown)


@app.command()
def show(run: Name = "latest", json: Json = False) -> None:
    """Show the steps of a run.

    Example: moworld runs show latest
    """
    _synchronize()
    found = Run.existing(run)
    if json:
        print_json({**summary(found), "status": found.status(), "record": str(found.file)})
        return
    record, live = found.record, found.steps()
    rows = []
    for name in [name for name, _ in ordered(record)] or list(live):
        step = live.get(name, {"status": "waiting"})
        measured = str(step.get("attempts", "")) if found.on_cluster else bytes_text(step.get("peak_bytes", 0))
        rows.append((name, step["status"], f"{step.get('seconds', 0):.1f} s", measured, step.get("error", "")))
    measure = "attempts" if found.on_cluster else "peak memory"
    print_table(f"{found.name}: {found.status()}", ("step", "status", "took", measure, "error"), rows)
    if found.on_cluster:
        print(f"page: {found.page}")
        if record["error"]:
            print(f"error: {record['error']}")
    if record.get("report"):
        print(f"report: {record['report']}")


@app.command()
def logs(run: Name = "latest") -> None:
    """Print the log of a run.

    Example: moworld runs logs latest
    """
    found = Run.existing(run)
    if found.on_cluster:
        from moworld_ops.pipelines.kubeflow_outputs import cluster_logs

        for line in cluster_logs(found):
            print(line)
        return
    path = found.folder / "log.txt"
    print(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "", end="")


@app.command()
def cancel(run: Name = "latest") -> None:
    """Cancel a run; it can be resumed.

    Example: moworld runs cancel latest
    """
    found = Run.existing(run)
    if found.on_cluster:
        from moworld_ops.pipelines.kubeflow_runs import cancel as cancel_on_cluster

        cancel_on_cluster(found)
    else:
        found.cancel()
    print(f"cancelling {found.name}")


@app.command()
def prune(
    keep: Annotated[int, option("Newest runs of each pipeline and profile that are kept.", "--keep", min=0)] = 5,
    days: Annotated[float, option("Runs younger than this are kept.", "--days", min=0)] = 30.0,
    delete: Annotated[bool, option("Delete it; without this option nothing is deleted.", "--delete")] = False,
    json: Json = False,
) -> None:
    """Show, or delete, what finished and old runs no longer need.

    Example: moworld runs prune --days 14 --delete

    Checkpoints of finished runs are deleted. Old runs are, too, unless a registered model names them, another run reads their
    outputs, or they have the newest output of a step. Runs in progress and runs on the cluster stay as they are.
    """
    from moworld_ops.pipelines.prune import Policy, decide
    from moworld_ops.pipelines.prune import delete as delete_decided

    decisions = decide(Policy(keep, days))
    gone = {one.run for one in decisions if one.delete and delete and delete_decided(one)}
    rows = [{**one.as_json(), "deleted": one.run in gone} for one in decisions]
    shown = [(one.run, one.status, one.delete, bytes_text(one.size) if one.delete else "", one.reason) for one in decisions]
    print_rows(json, rows, "runs", ("run", "status", "deleted" if delete else "would delete", "frees", "why"), shown)
    for problem in unreadable_runs().values():
        note(f"not touched: {problem}")
    for one in decisions:
        if one.delete and delete and one.run not in gone:
            note(f"not touched: {one.run} is in use by another process")
    freed = bytes_text(sum(one.size for one in decisions if one.run in gone or not delete))
    note(f"{freed} freed" if delete else f"{freed} would be freed; nothing was deleted, add --delete")


@app.command()
def schedules(json: Json = False) -> None:
    """List the schedules of the cluster.

    Example: moworld runs schedules
    """
    from moworld_ops.pipelines.kubeflow_api import Kubeflow

    rows = [
        {
            "schedule": one.display_name,
            "cron": one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else "",
            "id": one.recurring_run_id,
        }
        for one in Kubeflow().schedules()
    ]
    print_rows(json, rows, "schedules", ("schedule", "cron", "id"), [tuple(row.values()) for row in rows])


@app.command()
def unschedule(schedule: Annotated[str, typer.Argument(help="Name of a schedule.")]) -> None:
    """Delete a schedule; its running runs continue.

    Example: moworld runs unschedule data-wan22-a14b
    """
    from moworld_ops.pipelines.kubeflow_api import Kubeflow

    Kubeflow().unschedule(schedule)
    print(f"deleted schedule {schedule}")


@app.command()
def reap(json: Json = False) -> None:
    """Delete the TrainJobs of runs that are cancelled, over or deleted.

    Example: moworld runs reap

    The cluster's reaper does so every ten seconds; this needs a kubeconfig.
    """
    from moworld_ops.components.platform.cluster import connect, namespace
    from moworld_ops.components.platform.reaper import reap as delete_orphans

    gone = delete_orphans(connect(), namespace())
    print_result(json, gone, f"deleted {len(gone)} TrainJobs{': ' if gone else ''}{', '.join(gone)}")


def _synchronize() -> None:
    """Updates the records of runs on clusters; prints why if that is not possible."""
    if endpoints := cluster_endpoints():
        from moworld_ops.pipelines.kubeflow_runs import synchronize

        if problem := synchronize(endpoints):
            note(f"cluster runs are not up to date: {problem}")
