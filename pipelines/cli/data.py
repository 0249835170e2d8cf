"""Door `moworld data`: the steward's."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.output import Json, out, print_json, print_table

app = typer.Typer(help="The data steward's door.", no_args_is_help=True)


@app.callback()
def _door() -> None:
    pass


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A clip folder, a feature folder, or a Parquet or JSON file of rows.")],
    contract: Annotated[str, typer.Option(help="clips, captions or features.")] = "clips",
    json: Json = False,
) -> None:
    """Check a data set against a contract; exit status 1 where a row is rejected.

    Example: moworld data check my-clips --contract clips
    """
    from data_contracts.check import check_path

    report = check_path(path, contract).as_dict()
    if json:
        print_json(report)
    else:
        out.print(f"contract {report['contract']}: {report['rows']} rows, {report['accepted']} accepted, {report['quarantined']} rejected")
        if report["failures"]:
            rows = [(f["row"], f["rule"], f["value"], f["threshold"]) for f in report["failures"]]
            print_table("failures", ("row", "rule", "value", "threshold"), rows)
    if report["quarantined"]:
        raise typer.Exit(1)
