"""Aliases and tags that are written without mlflow are read by MLflow's own client as if it had written them."""

import http.server
import json
import shutil
import sqlite3
import threading
from contextlib import ExitStack, nullcontext
from typing import ClassVar

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.tracking import store_at
from tests.services import mlflow_server

NAME = "moworld it's 100%"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Returns a database with MLflow's tables, which takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def made(tmp_path, empty):
    """Returns the address of a database with one version of a model, and MLflow's client of it."""
    from mlflow import MlflowClient

    shutil.copyfile(empty, tmp_path / "mlflow.db")
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(database, database)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, str(tmp_path))
    return database, client


def sql(tmp_path, statement, *values):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("kind", ["database", "server"])
def test_moves_are_read_by_mlflow_s_client(tmp_path, made, kind):
    database, client = made
    client.create_model_version(NAME, str(tmp_path))
    with ExitStack() as running:
        uri = database if kind == "database" else running.enter_context(mlflow_server(tmp_path, database, str(tmp_path), ""))
        store = store_at(uri)
        store.move(NAME, {"candidate": "1", "champion": "1"}, {"ledger_head": "a"})
        store.move(NAME, {"champion": "2", "candidate": None, "no-such": None}, {"ledger_head": "b", "other": ""})
        found = client.get_registered_model(NAME)
        assert found.tags == {"ledger_head": "b", "other": ""}
        assert list(found.aliases) == ["champion"] and str(client.get_model_version_by_alias(NAME, "champion").version) == "2"
        (model,) = store.models()
        assert (model.aliases, model.tags) == ({"champion": "2"}, found.tags)
        assert [(one.version, one.aliases) for one in store.versions(model)] == [("1", ()), ("2", ("champion",))]
        client.set_registered_model_alias(NAME, "champion", "1")  # MLflow's own writes over ours
        client.delete_registered_model_alias(NAME, "champion")
        assert not client.get_registered_model(NAME).aliases


def test_a_server_s_refusal_is_one_line(tmp_path, made):
    database, _ = made
    with mlflow_server(tmp_path, database, str(tmp_path), "") as uri, pytest.raises(InputError, match=r"registered-models/alias.*no such model"):
        store_at(uri).move("no such model", {"champion": "1"}, {})


def test_a_database_moves_all_or_nothing(tmp_path, made):
    database, client = made
    sql(tmp_path, "CREATE TRIGGER full BEFORE INSERT ON registered_model_tags BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    with pytest.raises(InputError, match=r"disk is full.*free space"):
        store_at(database).move(NAME, {"champion": "1"}, {"ledger_head": "a"})
    assert not client.get_registered_model(NAME).aliases


def test_a_deleted_version_gets_no_alias(tmp_path, made):
    database, client = made
    client.delete_model_version(NAME, "1")
    with pytest.raises(InputError, match="version 1: found no such version"):
        store_at(database).move(NAME, {"champion": "1"}, {"ledger_head": "a"})
    assert (client.get_registered_model(NAME).aliases, client.get_registered_model(NAME).tags) == ({}, {})


def test_models_of_other_workspaces_are_neither_read_nor_moved(tmp_path, made):
    """A database may be one that a server with workspaces uses; MLflow's client of a database works in the default one."""
    database, client = made
    sql(tmp_path, "INSERT INTO registered_models (name, workspace) VALUES (?, 'other')", NAME)
    sql(tmp_path, "INSERT INTO model_versions (name, version, current_stage, workspace) VALUES (?, 7, 'None', 'other')", NAME)
    sql(tmp_path, "INSERT INTO registered_model_aliases (name, alias, version, workspace) VALUES (?, 'champion', 7, 'other')", NAME)
    sql(tmp_path, "INSERT INTO registered_model_tags (name, key, value, workspace) VALUES (?, 'ledger_head', 'z', 'other')", NAME)
    store = store_at(database)
    (model,) = store.models()
    assert (model.aliases, model.tags, [one.version for one in store.versions(model)]) == ({}, {}, ["1"])
    store.move(NAME, {"champion": "1"}, {"ledger_head": "a"})
    assert sql(tmp_path, "SELECT workspace, version FROM registered_model_aliases ORDER BY workspace") == [("default", 1), ("other", 7)]
    assert sql(tmp_path, "SELECT workspace, value FROM registered_model_tags ORDER BY workspace") == [("default", "a"), ("other", "z")]
    assert client.get_registered_model(NAME).aliases.keys() == {"champion"}


def test_a_database_of_an_mlflow_without_workspaces_is_read_and_written(tmp_path):
    for statement in (
        "CREATE TABLE registered_models (name TEXT PRIMARY KEY)",
        "CREATE TABLE model_versions (name TEXT, version INTEGER, run_id TEXT, source TEXT, creation_time INTEGER, current_stage TEXT)",
        "CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT)",
        "CREATE TABLE registered_model_aliases (name TEXT, alias TEXT, version INTEGER)",
        "CREATE TABLE registered_model_tags (name TEXT, key TEXT, value TEXT)",
        "INSERT INTO registered_models VALUES ('m')",
        "INSERT INTO model_versions VALUES ('m', 1, 'r', 's', 0, 'None')",
    ):
        sql(tmp_path, statement)
    store = store_at(f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.move("m", {"champion": "1"}, {"ledger_head": "a"})
    assert [(model.aliases, model.tags, len(store.versions(model))) for model in store.models()] == [({"champion": "1"}, {"ledger_head": "a"}, 1)]


def test_prompts_are_no_models(tmp_path, made):
    database, _ = made
    sql(tmp_path, "INSERT INTO registered_models (name) VALUES ('a prompt')")
    sql(tmp_path, "INSERT INTO registered_model_tags (name, key, value) VALUES ('a prompt', 'mlflow.prompt.is_prompt', 'true')")
    assert [model.name for model in store_at(database).models()] == [NAME]


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as an MLflow server with one model; `answers` are alias -> version after any move, `seen` what was asked."""

    answers: ClassVar[dict[str, str]] = {}
    seen: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_GET(self):
        self.seen.append((self.command, self.path.partition("mlflow/")[2].partition("?")[0], self.headers.get("X-MLFLOW-WORKSPACE")))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        aliases = [{"alias": alias, "version": version} for alias, version in self.answers.items()]
        body = json.dumps({"registered_model": {"name": NAME, "aliases": aliases}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(("left", "done"), [({"champion": "1", "candidate": "2"}, False), ({"champion": "2", "candidate": "2"}, False), ({"champion": "2"}, True)])
def test_a_server_that_accepts_a_move_and_does_not_make_it_is_found_before_the_tag_is_set(monkeypatch, left, done):
    monkeypatch.setattr(Server, "answers", left)
    monkeypatch.setattr(Server, "seen", [])
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team a")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = store_at(f"http://127.0.0.1:{server.server_port}")
    move = {"champion": "2", "candidate": None}
    with nullcontext() if done else pytest.raises(InputError, match=r"alias (champion|candidate): found . after it was set"):
        store.move(NAME, move, {"ledger_head": "a"})
    server.shutdown()
    server.server_close()
    assert (("POST", "registered-models/set-tag", "team a") in Server.seen) is done
    assert {workspace for _, _, workspace in Server.seen} == {"team a"}  # as MLflow's client sends it
