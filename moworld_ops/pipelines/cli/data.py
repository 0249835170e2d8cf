"""CLI commands `data collect`, `import`, `check`, `docs`, `diff` and `lineage`."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Commands, Json, Overrides, option
from moworld_ops.pipelines.cli.output import print_json, print_result, print_table, working

if TYPE_CHECKING:
    from moworld.data.history import Earlier
    from moworld.data.settings import DataSettings

app = Commands(help="Collect, import, check and trace training data.")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would happen to each file, and how long it would take.")]
FEATURES = "Published feature files (.jsonl)"


@app.command()
def collect(
    to: Annotated[Path, option("Directory for the clips.", "--out", panel="Output")],
    profile: Annotated[str, option("Profile whose section `data` names the sources.", autocompletion=completion.profiles)] = "pocket",
    overrides: Overrides = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Collect clips from game levels and videos into a directory with a manifest.

    Example: moworld data collect --set data.game=null --set data.videos=my-clips --out raw

    Every file of the sources is listed with what happened to it. After a kill, the same command imports only the videos that are left.
    """
    from moworld.files import output_directory
    from moworld_ops.pipelines import profile as profiles

    _, settings = profiles.load(profile, overrides)
    if dry_run:
        _print_plan(settings.data, json)
        return
    folder = output_directory(to, "manifest.parquet", ("summary.json", "sources.parquet", "rejected.parquet", "videos", "cameras", "depth", "actions", "scenes"))
    from moworld.data.sources import collect_clips

    summary = collect_clips(folder, settings.data, settings.seed)
    _print_written(summary, to, json)
    if summary["rejected"] and not json:
        rows = [(row["video"], row["rule"], row["value"]) for row in summary["rejected"]]
        print_table("rejected", ("video", "rule", "value"), rows)
    if not json:
        _print_files(summary["files"])


def _print_plan(settings: "DataSettings", json: bool, earlier: "Earlier | None" = None) -> None:
    """Prints what an import of the settings' videos would do."""
    from moworld.data.sources import plan_import

    with working("reading headers"):
        plan = plan_import(settings, earlier)
    if json:
        print_json(plan)
        return
    _print_files(plan["files"])
    print(f"{plan['footage_seconds']:g} s of footage, about {plan['estimated_seconds']:g} s to import; nothing was written")


def _print_files(files: list[dict[str, Any]]) -> None:
    if files:
        print_table("files", ("file", "fate", "clips", "why"), [(row["file"], row["fate"], row["clips"], row["why"]) for row in files])


def _print_written(summary: dict[str, Any], to: Path, json: bool) -> None:
    text = f"{summary['clips']} clips, {summary['frames']} frames, written to {to}"
    print_result(json, {**summary, "out": str(to)}, text)


@app.command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(help="Videos, directories or URIs; or a .jsonl that lists published feature files.")],
    profile: Annotated[str | None, option("Profile; default: pocket, for a .jsonl wan22-a14b.", autocompletion=completion.profiles)] = None,
    overrides: Overrides = None,
    to: Annotated[Path | None, option("Directory for the features.", "--out", panel=FEATURES)] = None,
    codec: Annotated[Path | None, option("Autoencoder of the latents, Wan2.2's vae/.", panel=FEATURES)] = None,
    fps: Annotated[float, option("Frames per second of the footage; the published base: 24.", panel=FEATURES)] = 24.0,
    replace: Annotated[bool, typer.Option("--replace", help="Start a new data set instead of extending the newest revision.")] = False,
    split: Annotated[str | None, option("Of all files: train, validation or held_out; default: by source.", panel=FEATURES)] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Import videos as checked, captioned and cached training data.

    Example: moworld data import orbit.mp4 my-clips/ --profile pocket

    Videos run through pipeline `data`. The new data revision has the clips of the newest one, too, which are not processed again.
    Its codec stays; --set data.keep_codec=false trains it on all clips. Published feature files are rewritten as shards; pickled code is never executed.
    Exit status 1 if a contract rejects the batch.
    """
    if len(sources) == 1 and sources[0].endswith(".jsonl"):
        _import_features(sources[0], to, codec, profile or "wan22-a14b", overrides, fps, split, json)
        return
    for source in sources:
        if "://" not in source and not Path(source).exists():
            raise InputError(source, "", "no such file or directory", "videos, directories or URIs", "check the path")
    from moworld.data.discovery import list_line
    from moworld.files import atomic_write
    from moworld_ops.components.platform.home import writable_home
    from moworld_ops.pipelines.cli.run import run_here
    from moworld_ops.pipelines.steward import import_facts

    # The list is named by its content: a second import of the same sources has the same settings and hits kfp's cache.
    lines = [list_line(source if "://" in source else str(Path(source).absolute())) for source in sources]
    listing = writable_home() / "imports" / f"{sha256('|'.join(lines).encode()).hexdigest()[:16]}.txt"
    with atomic_write(listing, "w") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    changed = ["data.game=null", f"data.videos={listing}", "benchmark.held_out=false", f"data.append={str(not replace).lower()}"]
    changed += overrides or []
    if dry_run:
        from moworld_ops.components.platform.dataset import default_registry, earlier_clips
        from moworld_ops.pipelines import profile as profiles

        settings = profiles.load(profile or "pocket", changed)[1]
        _print_plan(settings.data, json, earlier_clips(default_registry(settings.registry.data), settings.data.append))
        return
    run_here("data", profile or "pocket", changed, None, json, import_facts)


def _import_features(
    listing: str, to: Path | None, codec: Path | None, profile: str, overrides: list[str] | None, fps: float, split: str | None, json: bool
) -> None:
    from moworld_ops.pipelines import profile as profiles

    if to is None or codec is None:
        missing = "--out" if to is None else "--codec"
        raise InputError(listing, missing, "nothing", "a directory", "feature files need --out and --codec")
    from moworld.files import output_directory

    folder = output_directory(to, "index.parquet", ("shard-*.safetensors", "world.json", "codec"))
    _, settings = profiles.load(profile, overrides)
    from moworld.data.published import import_features

    world = {"height": settings.data.height, "width": settings.data.width, "fps": fps, "text": settings.text.model_dump(mode="json")}
    with working(f"reading {listing}"):
        summary = import_features(Path(listing), folder, world, codec, split or settings.data)
    _print_written(summary, to, json)


@app.command()
def docs(
    to: Annotated[Path, option("Directory for the pages.", "--out", panel="Output")] = Path("data-docs"),
    run: Annotated[str | None, option("Run whose data is shown; default: the newest that checked data.", autocompletion=completion.runs)] = None,
    json: Json = False,
) -> None:
    """Write pages about the contracts and the data of a run.

    Example: moworld data docs --out data-docs

    They show rules, accepted and rejected rows with reasons, and the distribution of each measure.
    """
    from moworld.files import output_directory
    from moworld_ops.data_contracts.load import contract_names
    from moworld_ops.pipelines.runs import Run
    from moworld_ops.pipelines.steward import checked_by_contract, latest_checked, page_head, trend

    folder = output_directory(to, "clips.html", ("index.html", *(f"{name}.{kind}" for name in contract_names() for kind in ("html", "csv")), "pictures"))
    chosen = Run.existing(run) if run else latest_checked()
    from moworld_ops.data_contracts.pages import write_site

    with working(f"writing {to}"):
        checked = checked_by_contract(chosen)
        write_site(folder, checked, page_head(chosen), trend(chosen))
    columns = ("contract", "status", "accepted", "rejected")
    rows = [(part.contract.title, part.status, len(part.accepted), len(part.rejected)) for part in checked]
    if json:
        contracts = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"run": chosen.name, "index": str(to / "index.html"), "contracts": contracts})
    else:
        print_table(f"run {chosen.name}", columns, rows)
        print(f"open {to / 'index.html'}")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A contract: its name, a file, or NAME@REVISION of the repository.")],
    new: Annotated[str, typer.Argument(help="The contract that replaces it, named in the same way.")],
    json: Json = False,
) -> None:
    """Compare two versions of a contract and check the version step.

    Example: moworld data diff clips@HEAD clips

    Exit status 1 if the changes need a larger version step.
    """
    from moworld_ops.data_contracts.compare import compare, given_level, is_enough, needed_level
    from moworld_ops.pipelines.contracts import find_contract

    before, after = find_contract(old), find_contract(new)
    changes = compare(before, after)
    needed, given = needed_level(changes), given_level(before.version, after.version)
    enough = is_enough(needed, given)
    if json:
        rows = [{"column": change.column, "change": change.what, "level": change.level, "breaking": change.breaking} for change in changes]
        versions = {"old": before.title, "new": after.title, "needed": needed, "given": given, "enough": enough}
        print_json({**versions, "changes": rows})
    else:
        shown = [("breaking" if change.breaking else change.level, change.column or "(contract)", change.what) for change in changes]
        print_table(f"{before.title} to {after.title}", ("", "column", "change"), shown)
        verdict = "enough" if enough else "REFUSED: raise the version further"
        need = f"the changes need a {needed} version step" if needed else "nothing changed, so no version step is needed"
        step = {None: "the version is the same", "back": "the version went back"}.get(given, f"found a {given} step")
        print(f"{need}; {step}: {verdict}")
    raise typer.Exit(0 if enough else 1)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A source (file, its stem, SHA-256), a clip (clip_id, SHA-256) or a model (NAME, NAME@ALIAS, NAME@NUMBER).")],
    profile: Annotated[str, option("Profile that names the registries.", autocompletion=completion.profiles)] = "pocket",
    json: Json = False,
) -> None:
    """Show what learned from a source or a clip, or the files of a model.

    Example: moworld data lineage moworld-pocket@champion
    """
    from moworld_ops.components.platform.dataset import default_registry
    from moworld_ops.pipelines import profile as profiles

    _, settings = profiles.load(profile)
    from moworld_ops.pipelines.lineage import lineage_of

    with working("reading the registries"):
        found = lineage_of(name, default_registry(settings.registry.data), settings.registry.tracking)
    if json:
        print_json(found)
        return
    if found["kind"] == "model":
        facts = ", ".join(f"{key} {found[key]}" for key in ("run", "git_commit", "data_revision", "contract_version"))
        print(f"{found['name']} version {found['version']} ({' '.join(found['aliases'])}): {facts}")
        rows = [(clip["clip_id"], clip["split"], clip["source"], clip["source_file"] or clip["scene"], clip["video_sha256"][:12]) for clip in found["clips"]]
        print_table(f"{len(rows)} clips", ("clip", "split", "source", "file", "video sha256"), rows)
    else:
        _print_clip_lineage(found)
    if found["promotions"]:
        moves = [(f"{line['model']}@{line['version']}", line["action"], line["time"], line["reason"]) for line in found["promotions"]]
        print_table("promotions", ("model", "action", "time", "reason"), moves)


def _print_clip_lineage(found: dict[str, Any]) -> None:
    if found["files"]:
        print_table("source files", ("file", "fate", "clips", "why"), [(row["file"], row["fate"], row["clips"], row["why"]) for row in found["files"]])
    clips = [(clip["clip_id"], clip["split"], ", ".join(f"{one[:12]}/{shard}" for one, shard in clip["shards"].items())) for clip in found["clips"]]
    print_table(f"{len(clips)} clips", ("clip", "split", "features: revision/shard"), clips)
    print(f"runs: {', '.join(found['runs']) or 'none'}")
    rows = [(m["name"], m["version"], " ".join(m["aliases"]), m["split"], m["run"]) for m in found["models"]]
    print_table(f"models with clip {found['name']} in their data", ("model", "version", "alias", "split", "run"), list(dict.fromkeys(rows)))
    if found["in_newest_revision"]:
        print(f"it is in the newest data, revision {found['in_newest_revision'][:12]}")
    if found["decisions"]:
        rejections = [(d["run"], d["step"], d["clip_id"], d["rule"], d["value"], d["threshold"]) for d in found["decisions"]]
        print_table("rejections", ("run", "step", "clip", "rule", "value", "threshold"), rejections)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A clip directory, a feature directory, or a Parquet or JSON file of rows.")],
    contract: Annotated[str, option("clips, geometry, quality, captions or features; a contract file; or NAME@REVISION.")] = "clips",
    files: Annotated[Path | None, option("Directory of the files that rows name; default: the checked directory.")] = None,
    open_files: Annotated[bool, typer.Option("--open/--no-open", help="Open the files that rows name.")] = True,
    json: Json = False,
) -> None:
    """Check data against a contract.

    Example: moworld data check my-clips --contract clips

    Files that rows name are opened: present, inside the directory, with their hash, readable, of the stated size. For a file of rows
    outside a clip or feature directory, only with --files. Exit status 1 if a row or the batch is rejected.
    """
    from moworld.data.clips import REMOVED
    from moworld.data.inspection import make_openers
    from moworld_ops.data_contracts.check import TABLES, check_path, table_of
    from moworld_ops.data_contracts.files import FileCheck
    from moworld_ops.pipelines.contracts import find_contract

    chosen, table = find_contract(contract), table_of(path)
    folder = files or (table.parent if table.name in TABLES else None)
    if folder is not None and not folder.is_dir():
        raise InputError(folder, "--files", "no such directory", "the directory of the rows' files", "check the path")
    with working(f"checking {path}"):
        report = check_path(table, chosen, FileCheck(folder, make_openers()) if folder and open_files else None, REMOVED)
    found = report.as_dict()
    if json:
        print_json(found)
    else:
        opened = f", {report.files} files opened" if report.files else ""
        print(f"contract {found['contract']}: {report.rows} rows, {found['accepted']} accepted, {report.quarantined} rejected{opened}")
        for title in ("failures", "batch", "warnings"):
            if found[title]:
                rows = [(entry.get("row", "all rows"), entry["rule"], entry["value"], entry["threshold"]) for entry in found[title]]
                print_table(title, ("row", "rule", "value", "threshold"), rows)
    if not report.passed:
        raise typer.Exit(1)
