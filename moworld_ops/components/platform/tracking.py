"""Reads MLflow's registered models without importing mlflow (2 s): from its database, or from its REST API.

Only reading is here; what MLflow writes, its own client writes (registry.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moworld.errors import InputError
from moworld.extras import require
from moworld_ops.components.platform.artifacts import request

CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Version:
    """One version of a registered model: `source` is the URI of its folder, `tags` its lineage, `created` seconds since 1970."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: dict[str, str]
    created: float = 0.0


@dataclass(frozen=True)
class Model:
    """A registered model: alias -> version, and its tags."""

    name: str
    aliases: dict[str, str]
    tags: dict[str, str]


class Store(Protocol):
    """MLflow's registered models."""

    def models(self) -> list[Model]:
        """Returns all registered models by name."""

    def versions(self, model: Model) -> list[Version]:
        """Returns all versions of a model, oldest first."""

    def metrics(self, run_id: str) -> dict[str, float]:
        """Returns the newest value of every metric of a run."""


def store_at(uri: str) -> Store:
    """Returns the store at an MLflow URI: http(s)://, sqlite:/// or postgresql://. Raises InputError for another kind."""
    if uri.startswith(("http://", "https://")):
        return RestStore(uri)
    if uri.startswith(("sqlite:///", "postgresql")):
        return SqlStore(uri)
    raise InputError(uri, "registry.tracking", "an unknown kind of address", "http(s)://, sqlite:/// or postgresql://", "correct it")


def sqlite_uri(path: Path) -> str:
    """Returns the address of a SQLite file. Characters that have a meaning in a URL are escaped."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_file(uri: str) -> Path | None:
    """Returns the file of an address of SQLite, as SQLAlchemy and so MLflow read it; None for an address of another kind."""
    if not uri.startswith("sqlite:///"):
        return None
    database = engine_at(uri).url.database
    return Path(database) if database else None


def engine_at(uri: str) -> Any:
    """Returns SQLAlchemy's engine for a database, which connects at its first use and within a few seconds."""
    sqlalchemy = require("sqlalchemy", "registry")
    if uri.startswith("sqlite"):
        return sqlalchemy.create_engine(uri, connect_args={"timeout": 60})
    if not uri.startswith("postgresql"):
        raise InputError("registry", "database", uri.partition(":")[0][:40], "postgresql+psycopg2://... or sqlite:///...", "correct it")
    try:
        return sqlalchemy.create_engine(uri, connect_args={"connect_timeout": CONNECT_SECONDS}, pool_pre_ping=True)
    except sqlalchemy.exc.ArgumentError as error:
        raise InputError("registry", "database", str(error), "a URL of SQLAlchemy, postgresql+psycopg2://...", "correct it") from None


@contextmanager
def readable(engine: Any) -> Iterator[None]:
    """Translates errors of the database. Raises InputError for one that cannot be reached, or is damaged."""
    from sqlalchemy import exc

    try:
        yield
    except exc.DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        line = " ".join(str(error.orig).split())[:200]
        fix = "restore the file from a copy" if engine.dialect.name == "sqlite" else "check address, credentials and that it runs"
        raise InputError(where, "", line, "MLflow's database", fix) from None


class SqlStore:
    """MLflow's registry in its database, read through the tables of MLflow 3."""

    def __init__(self, uri: str) -> None:
        self.engine = engine_at(uri)

    def _rows(self, query: str, **values: Any) -> list[Any]:
        from sqlalchemy import text

        with readable(self.engine), self.engine.connect() as connection:
            return list(connection.execute(text(query), values))

    def models(self) -> list[Model]:
        aliases: dict[str, dict[str, str]] = {}
        for name, alias, version in self._rows("SELECT name, alias, version FROM registered_model_aliases ORDER BY alias"):
            aliases.setdefault(name, {})[alias] = str(version)
        tags: dict[str, dict[str, str]] = {}
        for name, key, value in self._rows("SELECT name, key, value FROM registered_model_tags"):
            tags.setdefault(name, {})[key] = value
        names = self._rows("SELECT name FROM registered_models ORDER BY name")
        return [Model(name, aliases.get(name, {}), tags.get(name, {})) for (name,) in names]

    def versions(self, model: Model) -> list[Version]:
        tags: dict[int, dict[str, str]] = {}
        for version, key, value in self._rows("SELECT version, key, value FROM model_version_tags WHERE name = :name", name=model.name):
            tags.setdefault(version, {})[key] = value
        rows = self._rows(
            "SELECT version, run_id, source, creation_time FROM model_versions"
            " WHERE name = :name AND current_stage <> 'Deleted_Internal' ORDER BY version",
            name=model.name,
        )
        return [
            Version(model.name, str(number), _aliases(model, str(number)), run or "", source or "", tags.get(number, {}), (made or 0) / 1000)
            for number, run, source, made in rows
        ]

    def metrics(self, run_id: str) -> dict[str, float]:
        rows = self._rows("SELECT key, value FROM latest_metrics WHERE run_uuid = :run AND NOT is_nan", run=run_id)
        return {key: float(value) for key, value in rows}


class RestStore:
    """MLflow's registry behind its server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = request("GET", f"{self.uri}/api/2.0/mlflow/{path}", params=parameters)
        try:
            found = dict(answer.json())
        except (ValueError, TypeError):
            found = {"message": "an answer that is not JSON"}
        if answer.status_code != 200 or found.keys() == {"message"}:
            message = str(found.get("message", ""))[:200]
            raise InputError(self.uri, path, f"status {answer.status_code}: {message}", "an answer of MLflow's API", "check the address")
        return found

    def _pages(self, path: str, key: str, **parameters: str) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            found = self._get(path, max_results="1000", **parameters, **({"page_token": token} if token else {}))
            yield from found.get(key, [])
            token = found.get("next_page_token", "")
            if not token:
                return

    def models(self) -> list[Model]:
        found = []
        for one in self._pages("registered-models/search", "registered_models"):
            aliases = {entry["alias"]: str(entry["version"]) for entry in one.get("aliases", [])}
            found.append(Model(one["name"], aliases, {tag["key"]: tag.get("value", "") for tag in one.get("tags", [])}))
        return sorted(found, key=lambda model: model.name)

    def versions(self, model: Model) -> list[Version]:
        quoted = model.name.replace("'", "''")
        found = []
        for one in self._pages("model-versions/search", "model_versions", filter=f"name='{quoted}'"):
            number, tags = str(one["version"]), {tag["key"]: tag.get("value", "") for tag in one.get("tags", [])}
            made = float(one.get("creation_timestamp", 0)) / 1000
            found.append(Version(model.name, number, _aliases(model, number), one.get("run_id", ""), one.get("source", ""), tags, made))
        return sorted(found, key=lambda version: int(version.version))

    def metrics(self, run_id: str) -> dict[str, float]:
        data = self._get("runs/get", run_id=run_id)["run"].get("data", {})
        return {one["key"]: float(one["value"]) for one in data.get("metrics", []) if one["value"] not in ("NaN", "Infinity", "-Infinity")}


def _aliases(model: Model, version: str) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, number in model.aliases.items() if number == version))
