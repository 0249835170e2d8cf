"""CLI commands `data list`, `show`, `stats` and `withdraw`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.data import app
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import print_json, print_table, working

Where = Annotated[str, option("Profile that names the registries.", autocompletion=completion.profiles)]
Chosen = Annotated[str, typer.Argument(help="A data revision, or the start of its name; default: the newest.")]
SOURCE_COLUMNS = ("source", "scene", "split", "clips", "frames", "hours")


def registries(profile: str) -> tuple[str, str, Any]:
    """Returns the folder of the data registry, its remote, and the model registry of a profile."""
    from moworld_ops.components.platform.dataset import default_registry
    from moworld_ops.components.platform.registry import ModelRegistry
    from moworld_ops.pipelines import profile as profiles

    chosen = profiles.load(profile)[1].registry
    return default_registry(chosen.data), chosen.remote, ModelRegistry(chosen.tracking, chosen.database)


def data_registry(profile: str) -> str:
    """Returns the folder of the data registry of a profile."""
    from moworld_ops.components.platform.dataset import default_registry
    from moworld_ops.pipelines import profile as profiles

    return default_registry(profiles.load(profile)[1].registry.data)


@app.command("list")
def list_(profile: Where = "pocket", json: Json = False) -> None:
    """List the data revisions, newest first, and the sources in the newest.

    Example: moworld data list
    """
    from moworld_ops.pipelines.data_set import revisions

    with working("reading the data registry"):
        found = revisions(data_registry(profile))
        facts = [revision.statistics() for revision in found]
    sources = facts[0]["sources"] if facts else []
    rows = [{key: one[key] for key in ("revision", "clips", "frames", "hours")} | {"sources": len(one["sources"])} for one in facts]
    if json:
        print_json({"revisions": rows, "sources": sources})
        return
    columns = ("revision", "clips", "frames", "hours", "sources")
    print_table("data revisions, newest first", columns, [(row["revision"][:12], *list(row.values())[1:]) for row in rows])
    print_table("sources of the newest", SOURCE_COLUMNS, [tuple(row.values()) for row in sources])


@app.command()
def show(revision: Chosen = "", profile: Where = "pocket", json: Json = False) -> None:
    """Show the sources of a data revision, and the fate of every file ever seen.

    Example: moworld data show
    """
    from moworld_ops.pipelines.data_set import find_revision

    with working("reading the data registry"):
        found = find_revision(data_registry(profile), revision)
        sources, files = found.statistics()["sources"], found.files()
    if json:
        rejected = [asdict(entry) for entry in found.rejected]
        print_json({"revision": found.name, "sources": sources, "clips": found.clips, "files": files, "rejected": rejected})
        return
    print_table(f"revision {found.name[:12]}", SOURCE_COLUMNS, [tuple(row.values()) for row in sources])
    columns = ("file", "fate", "clips", "rejected", "split", "why")
    print_table("every file ever seen", columns, [tuple(row[column] for column in columns) for row in files])


@app.command()
def stats(revision: Chosen = "", profile: Where = "pocket", json: Json = False) -> None:
    """Show hours, clips and frames per source, and the rejected clips by reason.

    Example: moworld data stats
    """
    from moworld_ops.pipelines.data_set import find_revision

    with working("reading the data registry"):
        found = find_revision(data_registry(profile), revision).statistics()
    if json:
        print_json(found)
        return
    hours = "unknown" if found["hours"] is None else f"{found['hours']:g} h"
    fates = ", ".join(f"{count} {fate}" for fate, count in found["files"].items()) or "no file on record"
    print(f"revision {found['revision'][:12]}: {hours}, {found['clips']} clips, {found['frames']} frames; files: {fates}")
    print_table("splits", ("split", "clips", "frames", "hours"), [(name, *row.values()) for name, row in found["splits"].items()])
    print_table("sources", SOURCE_COLUMNS, [tuple(row.values()) for row in found["sources"]])
    print_table(f"{found['rejected_clips']} clips rejected, by rule", ("rule", "clips"), list(found["rejected"].items()))


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="A source (file stem or level), its file or the file's SHA-256; a clip_id or its video's SHA-256.")],
    reason: Annotated[str, option("Why; recorded in the ledger.")] = "",
    erase: Annotated[bool, option("Delete the clips' bytes, too.")] = False,
    dry_run: Annotated[bool, option("Only say what either would touch.")] = False,
    profile: Where = "pocket",
    json: Json = False,
) -> None:
    """Withdraw footage, and fail the gate of models that learned from it.

    Example: moworld data withdraw holiday --reason "consent withdrawn"

    A champion that learned from it goes on serving, with a warning, until it is rolled back. Originals and backups are yours to delete.
    """
    if not reason.strip() and not dry_run:
        raise InputError("data withdraw", "--reason", "nothing", "the reason, which the ledger records", "pass --reason")
    from moworld_ops.pipelines import withdrawal

    registry, remote, models = registries(profile)
    with working("reading the registries"):
        found = withdrawal.reach(name, registry, models)
    done: dict[str, Any] = asdict(found) | {"dry_run": dry_run, "revision": "", "erased": withdrawal.bytes_of(found, registry) if dry_run else []}
    if not dry_run:
        with working("writing the revision"):
            done |= withdrawal.withdraw(found, registry, remote, models, reason)
            done["erased"] = withdrawal.bytes_of(found, registry, delete=True) if erase else []
    if json:
        print_json(done)
        return
    print(f"{'would withdraw' if dry_run else 'withdrawn'}: {len(found.clips)} clips of {name}: {', '.join(sorted(found.clips))}")
    shards = [(revision[:12], " ".join(names)) for revision, names in found.shards.items()]
    print_table("data revisions with them", ("revision", "shards"), shards)
    print(f"runs that have them or learned from them: {', '.join(found.runs) or 'none'}")
    print(f"models that learned from them: {', '.join(found.versions) or 'none'}")
    for champion in found.champions:
        print(f"warning: champion {champion} learned from them and goes on serving; moworld release rollback {champion.partition('@')[0]}")
    if done["revision"]:
        print(f"new data revision without them: {done['revision'][:12]}")
    if done["erased"]:
        print(f"{'--erase would delete' if dry_run else 'deleted'} {len(done['erased'])} files")
    if erase and not dry_run:
        print("not deleted, because they are elsewhere: your originals, backups and older versions in buckets, models, captions in older indexes")
