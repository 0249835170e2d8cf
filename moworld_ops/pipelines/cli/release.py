"""CLI commands `release list`, `history`, `compare`, `gates`, `promote`, `rollback`, `adopt`, `verify` and `gc`."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError, printable
from moworld_ops.pipelines.cli import completion, output
from moworld_ops.pipelines.cli.layout import Commands, Json, option
from moworld_ops.pipelines.cli.output import note, working

app = Commands(help="Compare, promote, roll back and verify registered models.")
Reference = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME@VERSION.", autocompletion=completion.references)]
Name = Annotated[str, typer.Argument(help="Name of a registered model.", autocompletion=completion.models)]
Profile = Annotated[str, option("Profile with the gates and the registry.", "--profile", autocompletion=completion.profiles)]
OTHER = "NAME@ALIAS or NAME@VERSION; default: the champion of the same model."
VERIFIED = "NAME@ALIAS, NAME@VERSION, or a video of 'rollout' with its record."
PLACE = "Profile with the registry; default: MLFLOW_TRACKING_URI, or the state folder."
Where = Annotated[str, option(PLACE, "--profile", autocompletion=completion.profiles)]
Reason = Annotated[str, option("Reason, written to the ledger.")]
Withdrawn = Annotated[str, option("Accept a version that learned from withdrawn footage; the reason is written to the ledger.", metavar="REASON")]
Patch = Annotated[Path | None, option("Write a kustomize patch with which the player serves this version.", panel="Output")]
UNPINNED = (
    "warning: no key of this registry is pinned on this machine, so a ledger rewritten whole by another key would pass; get a manager's"
    " signing.pub another way and set MOWORLD_SIGNING_PUBLIC_KEY to it"
)
SHOWN = 3  # metrics of a version in a table


def print_result(json: bool, value: Any, text: str) -> None:
    """Prints a result. Names and reasons are of other people: what is not printable is escaped."""
    output.print_result(json, value, printable(text))


def print_rows(json: bool, value: Any, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows as `print_result` prints a text."""
    shown = [[None if cell is None else printable(str(cell)) for cell in row] for row in rows]
    output.print_rows(json, value, printable(title), columns, shown)


def open_registry(profile: str = "") -> Any:
    """Returns the registry of a profile; MLFLOW_TRACKING_URI replaces the profile's address, as for a port-forward."""
    from moworld_ops.components.platform.registry import ModelRegistry

    tracking = database = ""
    if profile:
        from moworld_ops.pipelines import profile as profiles

        settings = profiles.load(profile)[1].registry
        tracking, database = "" if os.environ.get("MLFLOW_TRACKING_URI") else settings.tracking, settings.database
    return ModelRegistry(tracking, database, create=False)


@app.command("list")
def list_(profile: Where = "", json: Json = False) -> None:
    """List the versions with aliases, date, metrics, run and data revision.

    Example: moworld release list
    """
    from moworld_ops.components.platform.releases import recorded_gates

    registry = open_registry(profile)
    models, lines = registry.models(), registry.ledger.entries()
    found, rows = [], []
    for model in models:
        try:
            entries = registry.entries(model.name, lines)
            _note_moved_alias(model, entries)
        except InputError as error:  # of this model only, as if another registry's manager promoted it
            note(f"warning: {error}")
            entries = []
        gated = [gate.metric for gate in recorded_gates(entries) if gate.metric]
        for version in registry.store.versions(model):
            metrics = registry.store.metrics(version.run_id)
            found.append({**asdict(version), "created": output.date_text(version.created), "metrics": metrics})
            shown = [name for name in (*gated, *sorted(metrics)) if name in metrics]
            text = ", ".join(f"{name} {metrics[name]:.4g}" for name in list(dict.fromkeys(shown))[:SHOWN])
            lineage = version.tags.get("run"), version.tags.get("data_revision", "")[:12]
            rows.append((version.name, version.version, " ".join(version.aliases), output.date_text(version.created), text, *lineage))
    print_rows(json, found, "releases", ("model", "version", "alias", "created", "metrics", "run", "data"), rows)


@app.command()
def history(model: Name, profile: Where = "", json: Json = False) -> None:
    """List who changed the versions of a model, when and why.

    Example: moworld release history moworld-pocket
    """
    registry = open_registry(profile)
    if model not in registry.names():
        known = ", ".join(registry.names()) or "none registered yet"
        raise InputError(f"model {model}", "", "no such model", f"one of: {known}", "see 'moworld release list'")
    entries = registry.entries(model)
    rows = []
    for entry in entries:
        why = entry.get("override") or entry.get("reason", "")
        failed = [row["gate"] for row in entry.get("verdict", []) if row["passed"] is False]
        why += f" (despite: {'; '.join(failed)})" if failed else ""
        what = ", ".join(entry["removed"]) if "removed" in entry else entry["version"]
        rows.append((output.moment_text(entry["time"]), entry["action"], what, entry.get("previous"), entry.get("by"), entry.get("account"), why))
    columns = ("time", "action", "version", "before", "by", "account", "reason")
    print_rows(json, entries, f"history of {model}", columns, rows)


@app.command()
def compare(
    candidate: Reference,
    champion: Annotated[str, typer.Argument(help=OTHER, autocompletion=completion.references)] = "",
    page: Annotated[Path | None, option("HTML page with the held-out videos side by side.", "--out", panel="Output")] = None,
    profile: Where = "",
    json: Json = False,
) -> None:
    """Compare the metrics and videos of two versions.

    Example: moworld release compare moworld-pocket@2 moworld-pocket@champion --out compare.html

    Both are read from the signed evidence, which must be unchanged.
    """
    from moworld.evaluation.metrics import METRICS
    from moworld.files import output_file

    if page is not None:
        output_file(page)
    from moworld_ops.components.platform.verification import flat, recorded, verify_evidence

    registry = open_registry(profile)
    first = recorded(registry, candidate)
    second = recorded(registry, champion or f"{first.name}@champion")
    for version in {first.name: first, second.name: second}.values():
        _note_moved_alias(registry.model(version.name), registry.entries(version.name))
    both = [verify_evidence(registry, version).metrics for version in (first, second)]
    ours, theirs = map(flat, both)
    rows = []
    for key in sorted(ours.keys() | theirs.keys()):
        row: dict[str, Any] = {"metric": key, "candidate": ours.get(key), "champion": theirs.get(key), "delta": None, "verdict": ""}
        if key in ours and key in theirs:
            row["delta"] = ours[key] - theirs[key]
            if key in METRICS:
                better = (row["delta"] > 0) == METRICS[key].higher_is_better
                row["verdict"] = "equal" if not row["delta"] else "better" if better else "worse"
        rows.append(row)
    if page is not None:
        from moworld.evaluation.report import write_comparison

        folders = [registry.folder_of(version).parent / "evidence" for version in (first, second)]
        write_comparison(page, [f"{version.name} version {version.version}" for version in (first, second)], both, folders)
    found = {"candidate": first.version, "champion": second.version, "metrics": rows}
    numbers = [["" if r[k] is None else f"{r[k]:.5g}" for k in ("candidate", "champion")] for r in rows]
    shown = [(r["metric"], *n, "" if r["delta"] is None else f"{r['delta']:+.3g}", r["verdict"]) for r, n in zip(rows, numbers, strict=True)]
    title = f"{first.name}: version {first.version} and version {second.version}"
    print_rows(json, found, title, ("metric", "candidate", "champion", "delta", ""), shown)


@app.command()
def gates(
    candidate: Reference,
    profile: Profile = "pocket",
    replay: Annotated[list[Path] | None, option("JSON of 'rollout --replay ... --model CANDIDATE --json', to show beside the gates.")] = None,
    json: Json = False,
) -> None:
    """Check a version against the gates, and these against the ledger's.

    Example: moworld release gates moworld-pocket@candidate --profile pocket

    A replay is of a recorded session of the champion. Exit status 1 if a gate fails.
    """
    from moworld.evaluation.gates import result_of
    from moworld_ops.components.platform.releases import decide
    from moworld_ops.components.platform.verification import verify_version

    registry, version, settings = _candidate(candidate, profile)
    try:
        verified: Any = verify_version(registry, version)
    except InputError as error:
        verified = error
    decision = decide(registry, version, settings.gates, settings.registry.profile, verified)
    rows = list(decision.rows)
    if replay:
        from moworld_ops.components.platform.shadow import replay_rows

        champion = registry.version(version.name, decision.champion).tags.get("model_sha256", "") if decision.champion else ""
        rows += replay_rows(replay, version.tags.get("model_sha256", ""), champion)
    found = {"model": version.name, "version": version.version, "champion": decision.champion, "gates": rows}
    shown = [(result_of(row).replace("failed", "FAILED"), row["gate"], row["value"], row["threshold"]) for row in rows]
    print_rows(json, found, f"gates for {version.name} version {version.version}", ("", "gate", "value", "threshold"), shown)
    if decision.failed:
        raise typer.Exit(1)


@app.command()
def promote(
    candidate: Reference,
    profile: Profile = "pocket",
    reason: Reason = "",
    override: Annotated[str, option("Promote despite failed gates; the reason is written to the ledger.", metavar="REASON")] = "",
    patch: Patch = None,
    json: Json = False,
) -> None:
    """Promote a version that passes the gates to champion.

    Example: moworld release promote moworld-pocket@2 --profile pocket

    Its signatures must be valid; no option overrides that.
    """
    from moworld_ops.components.platform import releases
    from moworld_ops.components.platform.serving import planned_patch

    registry, version, settings = _candidate(candidate, profile)
    with planned_patch(patch) as write_patch:
        done, decision = releases.promote(registry, version, settings.gates, settings.registry.profile, reason, override)
        write_patch(done)
    if decision.champion == done.version and not decision.failed:
        print_result(json, asdict(done), f"{done.name} version {done.version} is already champion; nothing was recorded")
        return
    against = f", despite {len(decision.failed)} failed gates" if decision.failed else ""
    print_result(json, asdict(done), f"{done.name} version {done.version} is champion{against}")


@app.command()
def rollback(
    model: Name,
    to: Annotated[str | None, option("Version that was champion before; default: the previous champion.", metavar="VERSION")] = None,
    reason: Reason = "",
    override: Withdrawn = "",
    patch: Patch = None,
    profile: Where = "",
    json: Json = False,
) -> None:
    """Make an earlier champion champion again, after verifying it.

    Example: moworld release rollback moworld-pocket --reason "walls flicker" --patch player.yaml
    """
    from moworld_ops.components.platform import releases
    from moworld_ops.components.platform.serving import planned_patch

    with planned_patch(patch) as write_patch:
        done = releases.rollback(open_registry(profile), model, to, reason, override)
        write_patch(done)
    print_result(json, asdict(done), f"{done.name} version {done.version} is champion again")


@app.command()
def adopt(model: Name, reason: Reason = "", override: Withdrawn = "", profile: Where = "", json: Json = False) -> None:
    """Record in the ledger that alias champion was moved outside of it.

    Example: moworld release adopt moworld-pocket --reason "moved in MLflow while the ledger was unreachable"

    The version must be unchanged since it was registered. An alias that is gone is restored to the ledger's champion. To undo the move instead, set the alias back in MLflow.
    """
    from moworld_ops.components.platform import releases

    done = releases.adopt(open_registry(profile), model, reason, override)
    print_result(json, asdict(done), f"{done.name} version {done.version} is champion, as adopted")


@app.command()
def verify(
    reference: Annotated[str, typer.Argument(help=VERIFIED, autocompletion=completion.references)],
    unsigned: Annotated[bool, option("Of a video: accept a record without a signature.", "--unsigned")] = False,
    profile: Where = "",
    json: Json = False,
) -> None:
    """Verify a version (signatures, record, ledger) or the origin of a video.

    Example: moworld release verify moworld-pocket@champion

    Example: moworld release verify world.mp4

    Of a version, checked are the signatures of model and evidence, the metrics in MLflow, the signed lines of the ledger, and the champion
    alias. Of a video, checked are its SHA-256, the signature of its record (FILE.json), and, if the registry has the version that it names,
    model and data revision. Nothing is written, and no private key is needed. Exit status 1 if anything was changed.
    """
    from moworld_ops.components.platform.ledger import withdrawals
    from moworld_ops.components.platform.verification import is_file_reference, verify_release

    if is_file_reference(reference):
        _verify_file(Path(reference), unsigned, profile, json)
        return
    registry = open_registry(profile)
    version = registry.find(reference)
    entries = verify_release(registry, version)
    lines, pinned = registry.ledger.entries(), bool(registry.ledger.pinned())
    withdrawn = [
        f"{one['source']} ({one['reason']})"
        for one in withdrawals(lines, f"{version.name}@{version.version}", version.tags.get("data_revision", ""))
    ]
    found = {"model": version.name, "version": version.version, "signature": "valid", "ledger_entries": entries}
    found |= {"ledger_key_pinned": pinned, "withdrawn_footage": withdrawn}
    for one in withdrawn:
        note(printable(f"warning: it learned from withdrawn footage: {one}"))
    if not pinned:
        note(UNPINNED)
    text = f"{version.name} version {version.version}: signatures and metrics valid; ledger: {entries} entries, unbroken"
    print_result(json, found, text)


def _verify_file(path: Path, unsigned: bool, profile: str, json: bool) -> None:
    from moworld_ops.components.platform.provenance import verify_video

    done = verify_video(path, unsigned, open_registry(profile) if profile else None)
    model, frames = done.record.model, done.record.frames
    name = f"{model.name} version {model.version}" if model.name else f"model {model.sha256[:12]}"
    known = "as registered" if done.registered else "not in this registry"
    who = f"signed by key {done.signer[:12]}" if done.signer else "UNSIGNED, anyone could have written this record"
    data = f", data {model.data_revision[:12]}" if model.data_revision else ""
    manifest = None if done.manifest is None else {"signer": done.manifest.signer or None, "facts": done.manifest.facts}
    credentials = "" if manifest is None else f", content credentials by {'the same key' if manifest['signer'] else 'an unknown key'}"
    facts = {
        "video": str(done.video), "sha256": done.record.sha256, "signer": done.signer or None, "model_registered": done.registered,
        "content_credentials": manifest,
        "model": model.model_dump(), "kind": done.record.kind, "created": done.record.created, "prompt": done.record.controls.prompt,
        "seed": done.record.controls.seed, "actions": done.record.controls.actions, "frames": frames.count,
    }  # fmt: skip
    print_result(json, facts, f"{done.video}: unchanged, {who}{credentials}; {frames.count} frames by {name} ({known}{data}), {done.record.created}")


@app.command()
def gc(
    model: Name,
    keep: Annotated[int, option("Newest versions, and earlier champions, to keep.")] = 3,
    yes: Annotated[bool, option("Delete them; otherwise they are only listed.", "--yes")] = False,
    reason: Reason = "",
    profile: Where = "",
    json: Json = False,
) -> None:
    """List or delete the versions that no rule keeps, with their files.

    Example: moworld release gc moworld-pocket --keep 3 --yes

    Kept are versions with an alias, the champion, the last earlier champions, and the newest versions. The ledger keeps its lines.
    """
    from moworld_ops.components.platform import releases

    found = releases.collect(open_registry(profile), model, keep, reason, remove=yes)
    rows = [(version.name, version.version, output.date_text(version.created), version.tags.get("run")) for version in found]
    print_rows(json, [asdict(version) for version in found], "deleted" if yes else "to delete", ("model", "version", "created", "run"), rows)
    if found and not yes:
        note("nothing was deleted; pass --yes to delete them")


def _candidate(reference: str, profile: str) -> tuple[Any, Any, Any]:
    """Returns the registry of a profile, the version, and the profile. Raises InputError for the profile of another model."""
    from moworld_ops.components.platform.verification import recorded
    from moworld_ops.pipelines import profile as profiles

    settings = profiles.load(profile)[1]
    with working("opening the registry"):
        registry = open_registry(profile)
    version = recorded(registry, reference)
    if settings.registry.name != version.name:
        raise InputError("--profile", profile, f"gates for {settings.registry.name}", f"the profile of {version.name}", "pass --profile")
    return registry, version, settings


def _note_moved_alias(model: Any, entries: Any) -> None:
    from moworld_ops.components.platform.ledger import champion_of

    champion, alias = champion_of(entries), model.aliases.get("champion")
    if champion and alias != champion:
        note(printable(f"warning: MLflow's alias champion of {model.name} is {alias or 'missing'}; the ledger's champion is version {champion}"))
