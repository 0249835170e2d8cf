"""Aliases and tags that are written without mlflow are read by MLflow's own client as if it had written them."""

import sqlite3
from contextlib import ExitStack

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.tracking import store_at
from tests.services import mlflow_server

NAME = "moworld it's 100%"


@pytest.mark.parametrize("kind", ["database", "server"])
def test_moves_are_read_by_mlflow_s_client(tmp_path, kind):
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(database, database)
    client.create_registered_model(NAME)
    for _ in range(2):
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
        client.set_registered_model_alias(NAME, "champion", "1")  # MLflow's own writes over ours
        client.delete_registered_model_alias(NAME, "champion")
        assert not client.get_registered_model(NAME).aliases


def test_a_server_s_refusal_is_one_line(tmp_path):
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with mlflow_server(tmp_path, database, str(tmp_path), "") as uri, pytest.raises(InputError, match=r"registered-models/alias.*no such model"):
        store_at(uri).move("no such model", {"champion": "1"}, {})


def test_a_database_moves_all_or_nothing(tmp_path):
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(database, database)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, str(tmp_path))
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON registered_model_tags BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    with pytest.raises(InputError, match=r"disk is full.*free space"):
        store_at(database).move(NAME, {"champion": "1"}, {"ledger_head": "a"})
    assert not client.get_registered_model(NAME).aliases
