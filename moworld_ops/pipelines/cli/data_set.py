"""CLI commands `data list` and `withdraw`."""

from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.data import app
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import print_json, print_table, working

Where = Annotated[str, option("Profile that names the registries.", autocompletion=completion.profiles)]


def registries(profile: str) -> tuple[str, str, Any]:
    """Returns the folder of the data registry, its remote, and the model registry of a profile."""
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.registry import ModelRegistry
    from moworld_ops.pipelines import profile as profiles

    chosen = profiles.load(profile)[1].registry
    return chosen.data or str(home() / "registry"), chosen.remote, ModelRegistry(chosen.tracking, chosen.database)


@app.command("list")
def list_(profile: Where = "pocket", json: Json = False) -> None:
    """List the data revisions, newest first, and the sources in the newest.

    Example: moworld data list
    """
    from moworld_ops.components.platform.revisions import indexed_revisions

    registry, _, _ = registries(profile)
    with working("reading the data registry"):
        found = indexed_revisions(registry)
    rows = next(iter(found.values()), [])
    clips = Counter((row["source"], row["scene"], row["split"]) for row in rows)
    frames = {key: sum(row["num_frames"] for row in rows if (row["source"], row["scene"], row["split"]) == key) for key in clips}
    sources = [{"source": key[0], "scene": key[1], "split": key[2], "clips": clips[key], "frames": frames[key]} for key in sorted(clips)]
    if json:
        print_json({"revisions": [{"revision": one, "clips": len(index)} for one, index in found.items()], "sources": sources})
        return
    print_table("data revisions, newest first", ("revision", "clips"), [(one[:12], len(index)) for one, index in found.items()])
    print_table("sources of the newest", ("source", "scene", "split", "clips", "frames"), [tuple(row.values()) for row in sources])


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="A source (file stem or level), a clip_id, or the SHA-256 of a clip's video.")],
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
