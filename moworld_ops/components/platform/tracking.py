"""Reads MLflow's registered models, and moves their aliases, without importing mlflow (2 s): in its database, or by its REST API.

What else is written, MLflow's own client writes (registry.py).
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from moworld.errors import InputError, IntegrityError, invalid_value
from moworld.extras import require
from moworld_ops.components.platform.artifacts import request

CONNECT_SECONDS = 5
LISTING_SECONDS = 8.0  # for all pages of one listing
STRICT = ConfigDict(strict=True)
PROMPT = "mlflow.prompt.is_prompt"  # tag of a registered model that is a prompt; MLflow's own list of models omits those


@dataclass(frozen=True, config=STRICT)
class Version:
    """One version of a registered model: `source` is the URI of its folder, `tags` its lineage, `created` seconds since 1970."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: dict[str, str]
    created: float = 0.0


@dataclass(frozen=True, config=STRICT)
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

    def move(self, name: str, aliases: Mapping[str, str | None], tags: Mapping[str, str]) -> None:
        """Sets aliases of a model to versions, removes those with None, then sets tags. A database does all of it or nothing.

        Raises InputError if it cannot be written, or a version does not exist.
        """


def store_at(uri: str) -> Store:
    """Returns the store at an MLflow URI: http(s)://, sqlite:/// or postgresql://. Raises InputError for another kind."""
    if uri.startswith(("http://", "https://")):
        return RestStore(uri)
    if uri.startswith(("sqlite:///", "postgresql", "postgres:")):
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


def with_driver(uri: str) -> str:
    """Returns an address of PostgreSQL with the driver that is installed, psycopg2, if it names none; any other address as it is."""
    scheme, colon, rest = uri.partition("://")
    return f"postgresql+psycopg2://{rest}" if colon and scheme in ("postgresql", "postgres") else uri


def engine_at(uri: str) -> Any:
    """Returns SQLAlchemy's engine for a database, which connects at its first use and within a few seconds."""
    sqlalchemy = require("sqlalchemy", "registry")
    if uri.startswith("sqlite"):
        try:
            engine = sqlalchemy.create_engine(uri, connect_args={"timeout": 60})
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            raise InputError("registry", "database", str(error), "sqlite:///FILE", "correct it") from None
        if not engine.url.database or engine.url.database.startswith(":memory:"):
            raise InputError("registry", "database", uri, "sqlite:///FILE", "name a file")
        return engine
    if not uri.startswith(("postgresql", "postgres:")):
        raise InputError("registry", "database", uri.partition(":")[0][:40], "postgresql+psycopg2://... or sqlite:///...", "correct it")
    try:
        return sqlalchemy.create_engine(with_driver(uri), connect_args={"connect_timeout": CONNECT_SECONDS}, pool_pre_ping=True)
    except (sqlalchemy.exc.ArgumentError, ImportError) as error:
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
        raise InputError(where, "", line, "MLflow's database", remedy(engine, line)) from None


def remedy(engine: Any, line: str) -> str:
    """Returns how to correct an error of a database. line: the driver's message"""
    if engine.dialect.name != "sqlite":
        return "free space on its disk" if "No space left" in line else "check address, credentials and that it runs"
    folder = Path(engine.url.database).absolute().parent
    known = {
        "full": f"free space in {folder}",
        "readonly": f"check the permissions of the file and of {folder}",
        "unable to open": f"check the path, and the permissions of {folder}",
        "locked": "end the program that holds it, then try again",
        "disk I/O": f"check the disk of {folder}, and that it has space",
    }
    return next((fix for words, fix in known.items() if words in line), "restore the file from a copy")


class _Alias(BaseModel):
    alias: str
    version: str | int


class _Tag(BaseModel):
    key: str
    value: str = ""


class _RestModel(BaseModel):
    name: str
    aliases: list[_Alias] = []
    tags: list[_Tag] = []


class _ModelAnswer(BaseModel):
    """An answer with a registered model."""

    registered_model: _RestModel


class _RestVersion(BaseModel):
    version: Annotated[int, Field(ge=1)]
    run_id: str = ""
    source: str = ""
    creation_timestamp: float = 0
    tags: list[_Tag] = []


class _Models(BaseModel):
    """An answer with registered models."""

    registered_models: list[_RestModel] = []
    next_page_token: str = ""


class _Versions(BaseModel):
    """An answer with versions of a model."""

    model_versions: list[_RestVersion] = []
    next_page_token: str = ""


class _Metric(BaseModel):
    key: str
    value: float  # also "NaN" and "Infinity"


class _Data(BaseModel):
    metrics: list[_Metric] = []


class _Run(BaseModel):
    data: _Data = _Data()


class _RunAnswer(BaseModel):
    """An answer with a run."""

    run: _Run


class _Done(BaseModel):
    """An answer without a content."""


class _Refusal(BaseModel):
    """An answer with an error."""

    message: str


Answer = TypeVar("Answer", bound=BaseModel)
Page = TypeVar("Page", _Models, _Versions)


class SqlStore:
    """MLflow's registry in its database, read through the tables of MLflow 3: its default workspace, as MLflow's client of a database."""

    def __init__(self, uri: str) -> None:
        self.engine = engine_at(uri)

    @cached_property
    def _workspace(self) -> dict[str, str]:
        """The column that all rows of the default workspace have; {} in a database of an MLflow without workspaces."""
        from sqlalchemy import inspect

        with readable(self.engine), self.engine.connect() as connection:
            found = inspect(connection)
            columns = found.get_columns("registered_models") if found.has_table("registered_models") else []
        return {"workspace": "default"} if any(column["name"] == "workspace" for column in columns) else {}

    @property
    def _mine(self) -> str:
        return " AND ".join(["1 = 1", *(f"{column} = '{value}'" for column, value in self._workspace.items())])

    def _rows(self, form: Any, query: str, **values: Any) -> list[Any]:
        """Returns the rows of a query, each a tuple of type `form`. Raises IntegrityError for a value of another type."""
        from sqlalchemy import text

        with readable(self.engine), self.engine.connect() as connection:
            rows = [tuple(row) for row in connection.execute(text(query), values)]
        try:
            return TypeAdapter(list[form], config=STRICT).validate_python(rows)
        except ValidationError as error:
            where = self.engine.url.render_as_string(hide_password=True)
            wrong = invalid_value(where, error, "restore the database from a copy")
            raise IntegrityError(where, query.partition("FROM ")[2].split()[0], wrong.found, wrong.expected, wrong.fix) from None

    def models(self) -> list[Model]:
        aliases: dict[str, dict[str, str]] = {}
        query = f"SELECT name, alias, version FROM registered_model_aliases WHERE {self._mine} ORDER BY alias"
        for name, alias, version in self._rows(tuple[str, str, int], query):
            aliases.setdefault(name, {})[alias] = str(version)
        tags: dict[str, dict[str, str]] = {}
        query = f"SELECT name, key, value FROM registered_model_tags WHERE {self._mine}"
        for name, key, value in self._rows(tuple[str, str, str | None], query):
            tags.setdefault(name, {})[key] = value or ""
        names = self._rows(tuple[str], f"SELECT name FROM registered_models WHERE {self._mine} ORDER BY name")
        found = [Model(name, aliases.get(name, {}), tags.get(name, {})) for (name,) in names]
        return [model for model in found if model.tags.get(PROMPT, "").lower() != "true"]

    def versions(self, model: Model) -> list[Version]:
        tags: dict[int, dict[str, str]] = {}
        query = f"SELECT version, key, value FROM model_version_tags WHERE name = :name AND {self._mine}"
        for version, key, value in self._rows(tuple[int, str, str | None], query, name=model.name):
            tags.setdefault(version, {})[key] = value or ""
        rows = self._rows(
            tuple[int, str | None, str | None, int | None],
            "SELECT version, run_id, source, creation_time FROM model_versions"
            f" WHERE name = :name AND current_stage <> 'Deleted_Internal' AND {self._mine} ORDER BY version",
            name=model.name,
        )
        return [
            Version(model.name, str(number), _aliases(model, str(number)), run or "", source or "", tags.get(number, {}), (made or 0) / 1000)
            for number, run, source, made in rows
        ]

    def metrics(self, run_id: str) -> dict[str, float]:
        rows = self._rows(tuple[str, float], "SELECT key, value FROM latest_metrics WHERE run_uuid = :run AND NOT is_nan", run=run_id)
        return {key: float(value) for key, value in rows}

    def move(self, name: str, aliases: Mapping[str, str | None], tags: Mapping[str, str]) -> None:
        from sqlalchemy import text

        exists = f"SELECT 1 FROM model_versions WHERE name = :name AND version = :number AND current_stage <> 'Deleted_Internal' AND {self._mine}"
        with readable(self.engine), self.engine.begin() as connection:
            for alias, version in aliases.items():
                if version is not None and connection.execute(text(exists), {"name": name, "number": int(version)}).first() is None:
                    raise InputError(f"model {name}", f"version {version}", "no such version", "one that exists", "see 'moworld release list'")
                key = {"name": name, "alias": alias, **self._workspace}
                _set(connection, "registered_model_aliases", key, None if version is None else {"version": int(version)})
            for tag, value in tags.items():
                _set(connection, "registered_model_tags", {"name": name, "key": tag, **self._workspace}, {"value": value})


def _set(connection: Any, table: str, key: Mapping[str, str], values: Mapping[str, Any] | None) -> None:
    """Updates the row with a key, or inserts it if there is none; None deletes it."""
    from sqlalchemy import column, delete, insert, update
    from sqlalchemy import table as table_named

    rows = table_named(table, *(column(name) for name in [*key, *(values or {})]))
    same = [rows.c[name] == value for name, value in key.items()]
    if values is None:
        connection.execute(delete(rows).where(*same))
    elif not connection.execute(update(rows).where(*same).values(**values)).rowcount:
        connection.execute(insert(rows).values(**key, **values))


class RestStore:
    """MLflow's registry behind its server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def _get(self, form: type[Answer], path: str, **parameters: str) -> Answer:
        """Returns what is read at a path, in its form. Raises InputError for any other answer."""
        return self._send("GET", form, path, params=parameters)

    def _send(self, method: str, form: type[Answer], path: str, **settings: Any) -> Answer:
        """Returns an answer in its form. Raises InputError for any other one."""
        answer = request(method, f"{self.uri}/api/2.0/mlflow/{path}", **settings)
        try:
            if answer.status_code == 200:
                return form.model_validate_json(answer.content)
            found = _Refusal.model_validate_json(answer.content).message[:200]
        except ValidationError as error:
            found = invalid_value("", error, "").found if answer.content else "nothing"
        raise InputError(self.uri, path, f"status {answer.status_code}: {found}", "an answer of MLflow's API", "check the address")

    def _pages(self, form: type[Page], path: str, **parameters: str) -> Iterator[Page]:
        """Yields the pages of a listing. Raises InputError for one that does not end within LISTING_SECONDS."""
        token, seen, end = "", set[str](), time.monotonic() + LISTING_SECONDS
        while True:
            found = self._get(form, path, max_results="1000", **parameters, **({"page_token": token} if token else {}))
            yield found
            token = found.next_page_token
            if not token:
                return
            if token in seen or time.monotonic() > end:
                wrong = "the same page again" if token in seen else f"more pages after {LISTING_SECONDS:.0f} s"
                raise InputError(self.uri, path, wrong, "a listing that ends", "check the address, and the server's log")
            seen.add(token)

    def models(self) -> list[Model]:
        found = []
        for page in self._pages(_Models, "registered-models/search"):
            for one in page.registered_models:
                aliases = {entry.alias: str(entry.version) for entry in one.aliases}
                found.append(Model(one.name, aliases, {tag.key: tag.value for tag in one.tags}))
        return sorted(found, key=lambda model: model.name)

    def versions(self, model: Model) -> list[Version]:
        quote = '"' if "'" in model.name else "'"  # MLflow's filters have no way to escape one
        if quote in model.name:
            raise InputError(f"model {model.name}", "name", "both kinds of quotes", "at most one kind, as MLflow's search needs", "rename it in MLflow")
        found = []
        for page in self._pages(_Versions, "model-versions/search", filter=f"name={quote}{model.name}{quote}"):
            for one in page.model_versions:
                number, tags = str(one.version), {tag.key: tag.value for tag in one.tags}
                made = one.creation_timestamp / 1000
                found.append(Version(model.name, number, _aliases(model, number), one.run_id, one.source, tags, made))
        return sorted(found, key=lambda version: int(version.version))

    def metrics(self, run_id: str) -> dict[str, float]:
        metrics = self._get(_RunAnswer, "runs/get", run_id=run_id).run.data.metrics
        return {one.key: one.value for one in metrics if math.isfinite(one.value)}

    def move(self, name: str, aliases: Mapping[str, str | None], tags: Mapping[str, str]) -> None:
        for alias, version in aliases.items():
            body = {"name": name, "alias": alias}
            if version is None:
                self._send("DELETE", _Done, "registered-models/alias", json=body)
            else:
                self._send("POST", _Done, "registered-models/alias", json={**body, "version": version})
        if aliases:  # the tag says that all is done
            moved = {one.alias: str(one.version) for one in self._get(_ModelAnswer, "registered-models/get", name=name).registered_model.aliases}
            for alias, version in aliases.items():
                if moved.get(alias) != version:
                    found, expected = f"{moved.get(alias, 'none')} after it was set", str(version or "none")
                    raise InputError(self.uri, f"model {name}, alias {alias}", found, expected, "see the server's log")
        for key, value in tags.items():
            self._send("POST", _Done, "registered-models/set-tag", json={"name": name, "key": key, "value": value})


def _aliases(model: Model, version: str) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, number in model.aliases.items() if number == version))
