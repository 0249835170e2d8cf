"""The command `moworld`: joins the doors, one file each, and turns errors from outside into one line and an exit status.

0: done; 1: the answer is no (a contract or a gate failed), or a step broke; 2: wrong use or bad input.
"""

import sys

import typer

from kernels import NoKernel
from moworld.errors import InputError
from pipelines.cli import bench, data, doctor, evaluate, model, plan, release, run, runs, world

app = typer.Typer(
    name="moworld",
    help="Footage to a promoted, INT8, real-time, camera-controlled world model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("compile")(run.compile_)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("rollout")(world.rollout)
app.command("play")(world.play)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(release.app, name="release")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """The entry point."""
    from components.platform.steps import Refused, explain, is_disk_full

    try:
        app()
    except (InputError, NoKernel, Refused) as error:
        status, line = explain(error)
        print(line, file=sys.stderr)
        sys.exit(status)
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(explain(error)[1], file=sys.stderr)
        sys.exit(2)
