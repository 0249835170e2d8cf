"""Door `moworld release`: list, compare, gates, promote, rollback, verify."""

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from components.platform.steps import Refused
from moworld.errors import InputError
from pipelines.cli.output import Json, out, print_json, print_table

app = typer.Typer(help="The release manager's door.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="Name of a registered model.")]
Reference = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME@VERSION.")]
Profile = Annotated[str, typer.Option("--profile", help="The profile whose gates count.")]


def _registry() -> Any:
    from components.platform.registry import ModelRegistry

    return ModelRegistry()


@app.command("list")
def list_(json: Json = False) -> None:
    """List the registered versions, with aliases, run and data revision.

    Example: moworld release list
    """
    registry = _registry()
    versions = [version for name in registry.names() for version in registry.versions(name)]
    if json:
        print_json([version.as_dict() for version in versions])
        return
    rows = [(v.name, v.version, " ".join(v.aliases), v.tags.get("run"), v.tags.get("data_revision", "")[:12]) for v in versions]
    print_table("releases", ("model", "version", "alias", "run", "data"), rows)


@app.command()
def compare(
    candidate: Reference,
    champion: Annotated[str, typer.Argument(help="Default: the same model's champion.")] = "",
    page: Annotated[Path | None, typer.Option("--out", help="Write a page with their held-out videos side by side.")] = None,
    json: Json = False,
) -> None:
    """Compare two versions, metric by metric and video beside video.

    Example: moworld release compare moworld-pocket@2 moworld-pocket@champion --out compare.html
    """
    from components.platform.verification import flat
    from moworld.evaluation.report import write_comparison

    registry = _registry()
    first = registry.find(candidate)
    second = registry.find(champion or f"{first.name}@champion")
    both = [registry.metrics(version) for version in (first, second)]
    ours, theirs = map(flat, both)
    rows = [{"metric": key, "candidate": ours.get(key), "champion": theirs.get(key)} for key in sorted(ours.keys() | theirs.keys())]
    if page is not None:
        folders = [registry.folder_of(version).parent / "evidence" for version in (first, second)]
        titles = [f"{version.name} version {version.version}" for version in (first, second)]
        write_comparison(page, titles, both, folders)
    if json:
        print_json({"candidate": first.version, "champion": second.version, "metrics": rows})
        return
    shown = [(r["metric"], *("" if r[k] is None else f"{r[k]:.5g}" for k in ("candidate", "champion"))) for r in rows]
    print_table(f"{first.name}: version {first.version} beside {second.version}", ("metric", "candidate", "champion"), shown)


@app.command()
def gates(candidate: Reference, profile: Profile = "pocket", json: Json = False) -> None:
    """Hold a version against the gates; exit status 1 where one fails.

    Example: moworld release gates moworld-pocket@candidate --profile pocket
    """
    version, rows = _verdict(candidate, profile)
    if json:
        print_json({"model": version.name, "version": version.version, "gates": rows})
    else:
        shown = [("passed" if row["passed"] else "FAILED", row["gate"], row["value"], row["threshold"]) for row in rows]
        print_table(f"gates for {version.name} version {version.version}", ("", "gate", "value", "threshold"), shown)
    if not all(row["passed"] for row in rows):
        raise typer.Exit(1)


@app.command()
def promote(
    candidate: Reference,
    profile: Profile = "pocket",
    override: Annotated[str, typer.Option(help="Promote although gates fail, for this reason; kept in the ledger.")] = "",
    patch: Annotated[Path | None, typer.Option(help="Write a kustomize patch that makes the player serve this version.")] = None,
    json: Json = False,
) -> None:
    """Promote a version to champion if its signatures hold and it passes the gates.

    Example: moworld release promote moworld-pocket@2 --profile pocket
    """
    from components.platform.serving import write_patch
    from components.platform.verification import verify_version
    from moworld.evaluation.gates import failures

    version, rows = _verdict(candidate, profile)
    verify_version(_registry(), version)  # no reason overrides a signature
    failed = [row for row in rows if not row["passed"]]
    if failed and not override.strip():
        raise Refused(f"{version.name} version {version.version} was not promoted: {failures(rows)}")
    done = _registry().promote(version.name, version.version, getpass.getuser(), rows, override.strip() if failed else "")
    if patch is not None:
        write_patch(patch, done)
    against = f", against {len(failed)} failed gates" if failed else ""
    print_json(done.as_dict()) if json else out.print(f"{done.name} version {done.version} is champion{against}")


@app.command()
def rollback(model: Model, reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "", json: Json = False) -> None:
    """Give the champion's alias back to the version that held it before.

    Example: moworld release rollback moworld-pocket --reason "walls flicker"
    """
    done = _registry().rollback(model, by=getpass.getuser(), reason=reason)
    print_json(done.as_dict()) if json else out.print(f"{done.name} version {done.version} is champion again")


@app.command()
def verify(reference: Reference, json: Json = False) -> None:
    """Verify a version: signatures of model and evidence, what MLflow says of it, the ledger's chain, and the champion's alias.

    Example: moworld release verify moworld-pocket@champion
    """
    from components.platform.verification import verify_release

    registry = _registry()
    version = registry.find(reference)
    entries = verify_release(registry, version)
    if json:
        print_json({"model": version.name, "version": version.version, "signature": "valid", "ledger_entries": entries})
    else:
        out.print(f"{version.name} version {version.version}: signatures valid, metrics as measured; ledger: {entries} entries, unbroken")


def _verdict(reference: str, profile: str) -> tuple[Any, list[dict[str, Any]]]:
    from components.platform.verification import facts_of
    from moworld.evaluation.gates import verdict
    from pipelines import profile as profiles

    registry = _registry()
    version = registry.find(reference)
    champion = registry.champion(version.name)
    before = registry.metrics(champion) if champion and champion.version != version.version else None
    settings = profiles.load(profile)[1]
    if settings.registry.name != version.name:
        raise InputError("--profile", profile, f"gates for {settings.registry.name}", f"the profile of {version.name}", "pass --profile")
    return version, verdict(registry.metrics(version), before, settings.gates, facts_of(registry, version))
