"""Values that a shell completes: names of runs, pipelines, profiles and models. They import nothing heavy and raise nothing."""

from pathlib import Path

PIPELINES = ("data", "pretrain", "distill", "release", "lifecycle")  # of `catalog`, which imports more
PROFILES = Path(__file__).parents[1] / "profiles"


def runs(incomplete: str) -> list[str]:
    """Returns "latest" and the names of the runs in the state folder, newest first."""
    from moworld_ops.components.platform.home import home

    try:
        found = sorted((home() / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:  # deleted meanwhile, or not readable: no name is offered
        found = []
    return [name for name in ("latest", *(path.parent.name for path in found)) if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Returns the names of the models that are registered in the state folder; a tracking server is not asked."""
    return [name for name in _versions() if name.startswith(incomplete)]


def references(incomplete: str) -> list[str]:
    """Returns NAME@ALIAS and NAME@VERSION of the models that are registered in the state folder; a tracking server is not asked."""
    found = [f"{name}@{end}" for name, ends in _versions().items() for end in ends]
    return [reference for reference in found if reference.startswith(incomplete)]


def _versions() -> dict[str, list[str]]:
    """Returns the aliases and versions of every model in the state folder, by name."""
    from moworld.errors import InputError
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.tracking import sqlite_uri, store_at

    database = home() / "mlflow" / "mlflow.db"
    if not database.is_file():
        return {}
    try:
        store = store_at(sqlite_uri(database))
        return {model.name: [*model.aliases, *(version.version for version in store.versions(model))] for model in store.models()}
    except InputError:  # a damaged database: no name is offered
        return {}


def pipelines(incomplete: str) -> list[str]:
    """Returns the names of the pipelines."""
    return [name for name in PIPELINES if name.startswith(incomplete)]


def pipelines_or_all(incomplete: str) -> list[str]:
    """Returns the names of the pipelines, and `all`."""
    return [name for name in (*PIPELINES, "all") if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Returns the names of the profiles in the package, and the YAML files that begin so."""
    names = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    path = Path(incomplete or ".")
    folder, start = (path, "") if not incomplete or incomplete.endswith("/") else (path.parent, path.name)
    try:
        files = sorted(str(found) for found in folder.iterdir() if found.name.startswith(start) and found.suffix in (".yaml", ".yml"))
    except OSError:  # no such directory
        files = []
    return [*(name for name in names if name.startswith(incomplete)), *files]
