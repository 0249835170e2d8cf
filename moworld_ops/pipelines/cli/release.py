"""CLI commands `release list`, `compare`, `gates`, `promote`, `rollback` and `verify`."""

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Commands, Json, option
from moworld_ops.pipelines.cli.output import print_result, print_rows, working

app = Commands(help="Compare, promote, roll back and verify registered models.")
Reference = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME@VERSION.")]
Profile = Annotated[str, option("Profile with the gates.", "--profile")]


def _registry() -> Any:
    from moworld_ops.components.platform.registry import ModelRegistry

    with working("opening the registry"):
        return ModelRegistry()


@app.command("list")
def list_(json: Json = False) -> None:
    """List the registered versions with aliases, run and data revision.

    Example: moworld release list
    """
    registry = _registry()
    versions = [version for name in registry.names() for version in registry.versions(name)]
    rows = [(v.name, v.version, " ".join(v.aliases), v.tags.get("run"), v.tags.get("data_revision", "")[:12]) for v in versions]
    print_rows(json, [asdict(version) for version in versions], "releases", ("model", "version", "alias", "run", "data"), rows)


@app.command()
def compare(
    candidate: Reference,
    champion: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME@VERSION; default: the champion of the same model.")] = "",
    page: Annotated[Path | None, option("HTML page with the held-out videos side by side.", "--out", panel="Output")] = None,
    json: Json = False,
) -> None:
    """Compare the metrics and videos of two versions.

    Example: moworld release compare moworld-pocket@2 moworld-pocket@champion --out compare.html
    """
    from moworld.files import output_file

    if page is not None:
        output_file(page)
    from moworld.evaluation.report import write_comparison
    from moworld_ops.components.platform.verification import flat

    registry = _registry()
    first = registry.find(candidate)
    second = registry.find(champion or f"{first.name}@champion")
    both = [registry.metrics(version) for version in (first, second)]
    ours, theirs = map(flat, both)
    rows = [{"metric": key, "candidate": ours.get(key), "champion": theirs.get(key)} for key in sorted(ours.keys() | theirs.keys())]
    if page is not None:
        folders = [registry.folder_of(version).parent / "evidence" for version in (first, second)]
        write_comparison(page, [f"{version.name} version {version.version}" for version in (first, second)], both, folders)
    found = {"candidate": first.version, "champion": second.version, "metrics": rows}
    shown = [(r["metric"], *("" if r[k] is None else f"{r[k]:.5g}" for k in ("candidate", "champion"))) for r in rows]
    title = f"{first.name}: version {first.version} and version {second.version}"
    print_rows(json, found, title, ("metric", "candidate", "champion"), shown)


@app.command()
def gates(candidate: Reference, profile: Profile = "pocket", json: Json = False) -> None:
    """Check a version against the gates.

    Example: moworld release gates moworld-pocket@candidate --profile pocket

    Exit status 1 if a gate fails.
    """
    _, version, rows = _verdict(candidate, profile)
    found = {"model": version.name, "version": version.version, "gates": rows}
    shown = [("passed" if row["passed"] else "FAILED", row["gate"], row["value"], row["threshold"]) for row in rows]
    print_rows(json, found, f"gates for {version.name} version {version.version}", ("", "gate", "value", "threshold"), shown)
    if not all(row["passed"] for row in rows):
        raise typer.Exit(1)


@app.command()
def promote(
    candidate: Reference,
    profile: Profile = "pocket",
    override: Annotated[str, option("Promote despite failed gates; the reason is written to the ledger.", metavar="REASON")] = "",
    patch: Annotated[Path | None, option("Write a kustomize patch with which the player serves this version.", panel="Output")] = None,
    json: Json = False,
) -> None:
    """Promote a version that passes the gates to champion.

    Example: moworld release promote moworld-pocket@2 --profile pocket

    Its signatures must be valid; no option overrides that.
    """
    from moworld.evaluation.gates import failures
    from moworld_ops.components.platform.serving import write_patch
    from moworld_ops.components.platform.steps import Refused
    from moworld_ops.components.platform.verification import verify_version

    registry, version, rows = _verdict(candidate, profile)
    verify_version(registry, version)  # --override does not apply to signatures
    failed = [row for row in rows if not row["passed"]]
    if failed and not override.strip():
        raise Refused(f"{version.name} version {version.version} was not promoted: {failures(rows)}")
    done = registry.promote(version.name, version.version, getpass.getuser(), rows, override.strip() if failed else "")
    if patch is not None:
        write_patch(patch, done)
    against = f", despite {len(failed)} failed gates" if failed else ""
    print_result(json, asdict(done), f"{done.name} version {done.version} is champion{against}")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Name of a registered model.")],
    reason: Annotated[str, option("Reason, written to the ledger.")] = "",
    json: Json = False,
) -> None:
    """Make the previous champion champion again.

    Example: moworld release rollback moworld-pocket --reason "walls flicker"
    """
    done = _registry().rollback(model, by=getpass.getuser(), reason=reason)
    print_result(json, asdict(done), f"{done.name} version {done.version} is champion again")


@app.command()
def verify(reference: Reference, json: Json = False) -> None:
    """Verify signatures, MLflow record and ledger of a version.

    Example: moworld release verify moworld-pocket@champion

    Checked are the signatures of model and evidence, the metrics in MLflow, the hash chain of the ledger, and the champion alias.
    """
    from moworld_ops.components.platform.verification import verify_release

    registry = _registry()
    version = registry.find(reference)
    entries = verify_release(registry, version)
    found = {"model": version.name, "version": version.version, "signature": "valid", "ledger_entries": entries}
    text = f"{version.name} version {version.version}: signatures and metrics valid; ledger: {entries} entries, unbroken"
    print_result(json, found, text)


def _verdict(reference: str, profile: str) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Returns the registry, the version, and one row per gate of the profile."""
    from moworld_ops.pipelines import profile as profiles

    settings = profiles.load(profile)[1]
    from moworld.evaluation.gates import verdict
    from moworld_ops.components.platform.verification import gate_facts

    registry = _registry()
    version = registry.find(reference)
    if settings.registry.name != version.name:
        raise InputError("--profile", profile, f"gates for {settings.registry.name}", f"the profile of {version.name}", "pass --profile")
    champion = registry.champion(version.name)
    before = registry.metrics(champion) if champion and champion.version != version.version else None
    return registry, version, verdict(registry.metrics(version), before, settings.gates, gate_facts(registry, version))
