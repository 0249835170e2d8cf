"""Door `moworld data`: the steward's."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.output import Json, out, print_json, print_table

app = typer.Typer(help="The data steward's door.", no_args_is_help=True)


@app.callback()
def _door() -> None:
    pass


@app.command()
def collect(
    to: Annotated[Path, typer.Option("--out", help="Folder for the clips.")],
    profile: Annotated[str, typer.Option(help="The profile whose section data says what to collect.")] = "pocket",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. data.videos=my-clips. Repeatable.")] = None,
    json: Json = False,
) -> None:
    """Collect clips from game levels and videos into a folder with a manifest, and no further.

    Example: moworld data collect --set data.game=null --set data.videos=my-clips --out raw
    """
    from moworld.data.sources import collect_clips
    from pipelines import profile as profiles

    _, settings = profiles.load(profile, overrides)
    told = collect_clips(to, settings.data, settings.seed)
    if json:
        print_json({**told, "out": str(to)})
        return
    out.print(f"{told['clips']} clips, {told['frames']} frames, written to {to}", soft_wrap=True)
    if told["rejected"]:
        print_table("left out", ("video", "rule", "what"), [(row["video"], row["rule"], row["value"]) for row in told["rejected"]])


@app.command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(help="Videos, folders or URIs; or one .jsonl that names published .pth feature files.")],
    to: Annotated[Path | None, typer.Option("--out", help="For a .jsonl: folder for the features.")] = None,
    codec: Annotated[Path | None, typer.Option(help="For a .jsonl: the autoencoder that made the latents, Wan2.2's vae/.")] = None,
    profile: Annotated[str | None, typer.Option(help="Default: pocket; for a .jsonl: wan22-a14b.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE. Repeatable.")] = None,
    fps: Annotated[float, typer.Option(help="For a .jsonl: frames a second of the footage; the published base: 24.")] = 24.0,
    split: Annotated[str, typer.Option(help="For a .jsonl: train, validation or held_out.")] = "train",
    json: Json = False,
) -> None:
    """Take videos through collect, geometry, quality, captions and cache, by the contracts; or rewrite published feature files as shards.

    Example: moworld data import orbit.mp4 my-clips/ --profile pocket

    Pickled code is never run. Exit status 1 where a contract refuses the batch.
    """
    if len(sources) == 1 and sources[0].endswith(".jsonl"):
        _import_features(sources[0], to, codec, profile or "wan22-a14b", fps, split, json)
        return
    from components.platform.home import writable_home
    from moworld.files import atomic_write
    from pipelines.cli.run import run

    # a list by content, so that importing the same again is the same run settings and kfp's cache answers
    lines = [source if "://" in source else str(Path(source).absolute()) for source in sources]
    listing = writable_home() / "imports" / f"{sha256('|'.join(lines).encode()).hexdigest()[:16]}.txt"
    with atomic_write(listing, "w") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    run("data", profile or "pocket", overrides=["data.game=null", f"data.videos={listing}", *(overrides or [])], json=json)


def _import_features(listing: str, to: Path | None, codec: Path | None, profile: str, fps: float, split: str, json: bool) -> None:
    from moworld.data.published import import_features
    from moworld.errors import InputError
    from pipelines import profile as profiles

    if to is None or codec is None:
        missing = "--out" if to is None else "--codec"
        raise InputError(listing, missing, "nothing", "a folder", "feature files need --out and --codec")
    _, settings = profiles.load(profile)
    world = {"height": settings.data.height, "width": settings.data.width, "fps": fps, "text": settings.text.model_dump(mode="json")}
    told = import_features(Path(listing), to, world, codec, split)
    print_json({**told, "out": str(to)}) if json else out.print(
        f"{told['clips']} clips, {told['frames']} frames, written to {to}", soft_wrap=True
    )


@app.command()
def docs(
    to: Annotated[Path, typer.Option("--out", help="Folder for the pages.")] = Path("data-docs"),
    run: Annotated[str | None, typer.Option(help="The run whose data to show; the newest that checked data.")] = None,
    json: Json = False,
) -> None:
    """Write pages about the contracts: what they ask, what the latest data kept, how its measures are spread, what was rejected.

    Example: moworld data docs --out data-docs
    """
    from data_contracts.pages import write_site
    from pipelines.runs import Run
    from pipelines.steward import gather, latest_checked, source_of

    chosen = Run.existing(run) if run else latest_checked()
    checked = gather(chosen)
    write_site(to, checked, source_of(chosen))
    rows = [(part.contract.title, part.status, len(part.accepted), len(part.rejected)) for part in checked]
    if json:
        told = [dict(zip(("contract", "status", "accepted", "rejected"), row, strict=True)) for row in rows]
        print_json({"run": chosen.name, "index": str(to / "index.html"), "contracts": told})
    else:
        print_table(f"run {chosen.name}", ("contract", "status", "accepted", "rejected"), rows)
        out.print(f"open {to / 'index.html'}", soft_wrap=True)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A contract: its name, a file, or NAME@REVISION of this repository.")],
    new: Annotated[str, typer.Argument(help="The contract that shall replace it, named alike.")],
    json: Json = False,
) -> None:
    """What changed between two versions of a contract, what of it breaks those who rely on it, and whether the version rose enough.

    Example: moworld data diff clips@HEAD clips

    Exit status 1 where it did not.
    """
    from data_contracts.compare import compare, given_level, is_enough, needed_level
    from pipelines.contracts import find_contract

    before, after = find_contract(old), find_contract(new)
    changes = compare(before, after)
    needed, given = needed_level(changes), given_level(before.version, after.version)
    enough = is_enough(needed, given)
    if json:
        told = [{"column": change.column, "change": change.what, "level": change.level, "breaking": change.breaking} for change in changes]
        versions = {"old": before.title, "new": after.title, "needed": needed, "given": given, "enough": enough}
        print_json({**versions, "changes": told})
    else:
        rows = [("breaking" if change.breaking else change.level, change.column or "(contract)", change.what) for change in changes]
        print_table(f"{before.title} to {after.title}", ("", "column", "change"), rows)
        verdict = "enough" if enough else "REFUSED: raise it further"
        out.print(f"the changes need a {needed or 'no'} version step, the version took {given or 'none'}: {verdict}")
    raise typer.Exit(0 if enough else 1)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A clip (clip_id or SHA-256 of its video) or a model (NAME, NAME@ALIAS, NAME@NUMBER).")],
    profile: Annotated[str, typer.Option(help="The profile whose registries to look into.")] = "pocket",
    json: Json = False,
) -> None:
    """Which models learned from a clip, and which clips a model learned from.

    Example: moworld data lineage moworld-pocket@champion
    """
    from components.platform.home import home
    from pipelines import profile as profiles
    from pipelines.lineage import of

    _, settings = profiles.load(profile)
    found = of(name, settings.registry.data or str(home() / "registry"), settings.registry.tracking)
    if json:
        print_json(found)
    elif found["kind"] == "model":
        facts = ", ".join(f"{key} {found[key]}" for key in ("run", "git_commit", "data_revision", "contract_version"))
        out.print(f"{found['name']} version {found['version']} ({' '.join(found['aliases'])}): {facts}", soft_wrap=True)
        rows = [(clip["clip_id"], clip["split"], clip["source"], clip["scene"], clip["video_sha256"][:12]) for clip in found["clips"]]
        print_table(f"{len(rows)} clips", ("clip", "split", "source", "scene", "video sha256"), rows)
    else:
        rows = [(m["name"], m["version"], " ".join(m["aliases"]), m["split"], m["run"]) for m in found["models"]]
        print_table(f"models that clip {found['name']} is data of", ("model", "version", "alias", "as", "run"), rows)
        if found["in_newest_revision"]:
            out.print(f"it is in the newest data, revision {found['in_newest_revision'][:12]}")
        if found["decisions"]:
            rejections = [(d["run"], d["step"], d["rule"], d["value"], d["threshold"]) for d in found["decisions"]]
            print_table("rejections", ("run", "step", "rule", "value", "threshold"), rejections)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A clip folder, a feature folder, or a Parquet or JSON file of rows.")],
    contract: Annotated[str, typer.Option(help="clips, geometry, quality, captions or features.")] = "clips",
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
