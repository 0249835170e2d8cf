"""Door `moworld release`: list, compare, gates, promote, rollback, verify."""

import getpass
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
    candidate: Reference, champion: Annotated[str, typer.Argument(help="Default: the same model's champion.")] = "", json: Json = False
) -> None:
    """Compare two versions, metric by metric.

    Example: moworld release compare moworld-pocket@2 moworld-pocket@champion
    """
    from components.register.step import flat

    registry = _registry()
    first = registry.find(candidate)
    second = registry.find(champion or f"{first.name}@champion")
    ours, theirs = flat(registry.metrics(first)), flat(registry.metrics(second))
    rows = [{"metric": key, "candidate": ours.get(key), "champion": theirs.get(key)} for key in sorted(ours.keys() | theirs.keys())]
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
def promote(candidate: Reference, profile: Profile = "pocket", json: Json = False) -> None:
    """Promote a version to champion if it passes the gates and its signature holds.

    Example: moworld release promote moworld-pocket@2 --profile pocket
    """
    version, rows = _verdict(candidate, profile)
    failed = [row for row in rows if not row["passed"]]
    if failed:
        words = "; ".join(f"gate {row['gate']}: found {row['value']}, wanted {row['threshold']}" for row in failed)
        raise Refused(f"{version.name} version {version.version} was not promoted: {words}")
    _verify(version)
    done = _registry().promote(version.name, version.version, by=getpass.getuser(), verdict=rows)
    print_json(done.as_dict()) if json else out.print(f"{done.name} version {done.version} is champion")


@app.command()
def rollback(model: Model, reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "", json: Json = False) -> None:
    """Give the champion's alias back to the version that held it before.

    Example: moworld release rollback moworld-pocket --reason "walls flicker"
    """
    done = _registry().rollback(model, by=getpass.getuser(), reason=reason)
    print_json(done.as_dict()) if json else out.print(f"{done.name} version {done.version} is champion again")


@app.command()
def verify(reference: Reference, json: Json = False) -> None:
    """Verify a version's signature and the ledger's chain.

    Example: moworld release verify moworld-pocket@champion
    """
    from components.platform import ledger

    registry = _registry()
    version = registry.find(reference)
    _verify(version)
    entries = len(ledger.verify(registry.ledger))
    if json:
        print_json({"model": version.name, "version": version.version, "signature": "valid", "ledger_entries": entries})
    else:
        out.print(f"{version.name} version {version.version}: signature valid; ledger: {entries} entries, unbroken")


def _verify(version: Any) -> None:
    from components.platform import signing

    folder = _registry().folder_of(version)
    signing.verify(folder, folder.parent / "model.sig")


def _verdict(reference: str, profile: str) -> tuple[Any, list[dict[str, Any]]]:
    from moworld.evaluation.gates import verdict
    from pipelines import profile as profiles

    registry = _registry()
    version = registry.find(reference)
    champion = registry.champion(version.name)
    before = registry.metrics(champion) if champion and champion.version != version.version else None
    settings = profiles.load(profile)[1]
    if settings.registry.name != version.name:
        raise InputError("--profile", profile, f"gates for {settings.registry.name}", f"the profile of {version.name}", "pass --profile")
    return version, verdict(registry.metrics(version), before, settings.gates)
