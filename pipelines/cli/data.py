"""Door `moworld data`: the steward's."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.output import Json, out, print_json, print_table

app = typer.Typer(help="The data steward's door.", no_args_is_help=True)


@app.callback()
def _door() -> None:
    pass


@app.command("import")
def import_(
    listing: Annotated[Path, typer.Argument(help='A JSONL whose lines name the .pth feature files: {"file": ...}.')],
    to: Annotated[Path, typer.Option("--out", help="Folder for the features.")],
    codec: Annotated[Path, typer.Option(help="Folder of the autoencoder that made the latents, Wan2.2's vae/.")],
    profile: Annotated[str, typer.Option(help="The profile whose sizes the features have.")] = "wan22-a14b",
    split: Annotated[str, typer.Option(help="train, validation or held_out.")] = "train",
    json: Json = False,
) -> None:
    """Rewrite feature files of the published MoWorld base as shards that training reads; pickled code is never run.

    Example: moworld data import features/train.jsonl --codec Wan2.2-I2V-A14B/vae --out features
    """
    from moworld.data.published import import_features
    from pipelines import profile as profiles

    _, settings = profiles.load(profile)
    world = {"height": settings.data.height, "width": settings.data.width, "fps": 24.0, "text": settings.text.model_dump(mode="json")}
    told = import_features(listing, to, world, codec, split)
    print_json({**told, "out": str(to)}) if json else out.print(
        f"{told['clips']} clips, {told['frames']} frames, written to {to}", soft_wrap=True
    )


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
