"""Door `moworld runs`: list, show, logs, cancel."""

from datetime import datetime
from typing import Annotated, Any

import typer

from pipelines.cli.output import Json, bytes_text, out, print_json, print_table
from pipelines.runs import Run, all_runs, ordered, summary

app = typer.Typer(help="Runs of this machine.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A run's name, or 'latest'.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the runs, newest last.

    Example: moworld runs list
    """
    rows: list[dict[str, Any]] = [
        {**{key: run.record.get(key) for key in ("run", "pipeline", "profile", "started", "seconds")}, "status": run.status()}
        for run in all_runs()
    ]
    if json:
        print_json(rows)
        return
    shown = [
        (row["run"], row["status"], datetime.fromtimestamp(row["started"]).strftime("%Y-%m-%d %H:%M"), f"{row['seconds'] or 0:.0f} s")
        for row in rows
    ]
    print_table("runs", ("run", "status", "started", "took"), shown)


@app.command()
def show(run: Name = "latest", json: Json = False) -> None:
    """Show a run's steps.

    Example: moworld runs show latest
    """
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
    path = Run.existing(run).folder / "log.txt"
    print(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "", end="")


@app.command()
def cancel(run: Name = "latest") -> None:
    """End a run that is at work; it can be resumed.

    Example: moworld runs cancel latest
    """
    found = Run.existing(run)
    found.cancel()
    out.print(f"told {found.name} to end")
