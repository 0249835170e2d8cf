"""`moworld release` when something fails between two of its actions, or files and locks are not what they seem."""

import http.server
import json
import os
import shutil
import threading

import pytest

from moworld_ops.components.platform import ledger, releases
from moworld_ops.components.platform.artifacts import artifacts_at
from moworld_ops.components.platform.registry import ModelRegistry
from tests.moworld_ops.components.platform.registries import GATES, NAME, run_folder, sql, state


def one_line(text: str) -> str:
    assert len(text.strip().splitlines()) == 1 and text.strip().isprintable(), text
    return text


class Unreachable(Exception):
    pass


@pytest.fixture
def interrupted(home, monkeypatch):
    """A promotion of version 4 whose ledger line was written, and whose alias was not moved."""
    registry = ModelRegistry()

    def fail(*_):
        raise Unreachable

    with monkeypatch.context() as patch, pytest.raises(Unreachable):
        patch.setattr(registry.store, "move", fail)
        releases.promote(registry, registry.version(NAME, "4"), GATES)
    return home


# between the ledger's line and the alias


def test_an_interrupted_promotion_is_named_and_completed(interrupted, moworld, profile):
    status, out, err = moworld("verify", NAME)
    assert (status, out) == (1, "") and "promote of version 4" in one_line(err) and "applies it" in err and "adopt" not in err
    assert moworld("promote", f"{NAME}@4", "--profile", profile)[0] == 0 and moworld("verify", NAME)[0] == 0


def test_a_version_that_was_deleted_before_its_alias_moved_is_no_dead_end(interrupted, moworld, profile):
    sql(interrupted, "UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE version = 4")  # as MLflow deletes one
    for command in (("promote", f"{NAME}@2", "--profile", profile), ("rollback", NAME), ("gc", NAME)):
        status, out, err = moworld(*command)
        assert (status, out) == (1, "") and "version 4: found a version that was deleted" in one_line(err) and "release adopt" in err
    assert moworld("adopt", NAME, "--reason", "4 was deleted")[0] == 0
    assert moworld("verify", NAME)[0] == 0 and moworld("rollback", NAME, "--to", "2")[0] == 0


def test_a_missing_tag_of_the_ledger_s_end_is_named(home, moworld):
    sql(home, "DELETE FROM registered_model_tags WHERE key = 'ledger_head'")
    status, _, err = moworld("verify", NAME)
    last = ModelRegistry().ledger.entries()[-1]["hash"]
    assert status == 1 and "tag ledger_head: found none" in one_line(err) and last in err


# what is shown


@pytest.mark.parametrize("number", ["4", "3"])
def test_a_comparison_of_changed_metrics_is_refused(home, moworld, number):
    path = run_folder(home, number) / "evidence" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"student_next_chunk_psnr": 99}))
    status, out, err = moworld("compare", f"{NAME}@4", f"{NAME}@3")
    assert (status, out) == (1, "") and f"version {number}, evidence" in one_line(err)


def test_a_list_names_a_moved_alias_and_a_model_of_another_ledger_and_shows_all(home, moworld):
    sql(home, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    sql(home, "INSERT INTO registered_models (name) VALUES ('other')")
    sql(home, "INSERT INTO registered_model_tags (name, key, value) VALUES ('other', 'ledger_head', 'abc')")
    status, out, err = moworld("list", "--json")
    assert status == 0 and [one["version"] for one in json.loads(out)] == ["1", "2", "3", "4"]
    assert "alias champion of moworld-trust is 1; the ledger's champion is version 3" in err and "model other" in err


@pytest.mark.parametrize("moment", [10**17, -(10**17), 2**63 - 1])
def test_a_version_whose_date_is_none_is_listed(home, moworld, moment):
    sql(home, "UPDATE model_versions SET creation_time = ? WHERE version = 2", moment)
    status, out, _ = moworld("list", "--json")
    assert status == 0 and [bool(one["created"]) for one in json.loads(out)] == [True, False, True, True]


# files


@pytest.mark.parametrize("kind", ["link to a folder", "dangling link", "pipe", "pipe for a file", "folder for a file"])
@pytest.mark.timeout(60)
def test_what_is_no_file_in_a_model_is_found(home, moworld, tmp_path, kind):
    model = run_folder(home, "3") / "model"
    weights = model / "transformer" / "weights.safetensors"
    if kind == "link to a folder":
        (tmp_path / "code").mkdir()
        (model / "code").symlink_to(tmp_path / "code")
    elif kind == "dangling link":
        (model / "code").symlink_to(tmp_path / "nothing")
    elif kind == "pipe":
        os.mkfifo(model / "pipe")
    else:
        weights.unlink()
        weights.mkdir() if kind == "folder for a file" else os.mkfifo(weights)
    status, out, err = moworld("verify", NAME)
    assert (status, out) == (1, "") and one_line(err)


def test_weights_by_a_link_are_read(home, moworld, tmp_path):
    weights = run_folder(home, "3") / "model" / "transformer" / "weights.safetensors"
    shutil.move(weights, tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    assert moworld("verify", NAME)[0] == 0


class Broken(http.server.BaseHTTPRequestHandler):
    """Announces more bytes than it sends."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"abc")

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("kind", ["mlflow-artifacts:/1/run/artifacts", "http"])
def test_a_connection_that_breaks_in_a_file_is_one_line(kind):
    from moworld.errors import InputError, IntegrityError

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    artifacts = artifacts_at(f"{address}/files" if kind == "http" else kind, address)
    with pytest.raises(InputError, match="try again") as caught, artifacts.open("model.sig") as stream:
        stream.read()
    server.shutdown()
    server.server_close()
    assert not isinstance(caught.value, IntegrityError)


# locks and keys


def test_two_links_to_a_registry_have_one_lock(home, tmp_path, monkeypatch):
    (tmp_path / "other" / "mlflow").mkdir(parents=True)
    (tmp_path / "other" / "mlflow" / "mlflow.db").symlink_to(home / "mlflow" / "mlflow.db")
    first = ModelRegistry().ledger
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.2)
    second = ModelRegistry().ledger
    with first.locked(), pytest.raises(ledger.InputError, match="held by another command"), second.locked():
        pass
    with second.locked():
        pass


def test_a_lock_s_file_that_was_removed_locks_nobody_out_and_lets_nobody_in(home, monkeypatch):
    """Who waits for the removed file would else hold a lock beside the next one, who makes a new file."""
    first, second, order = ModelRegistry().ledger, ModelRegistry().ledger, []
    path = home / "mlflow" / "mlflow.db.lock"

    def wait():
        with second.locked():
            order.append(path.exists() and path.read_text() != "")

    with first.locked():
        waiting = threading.Thread(target=wait)
        waiting.start()
        path.write_bytes(b"\xff\xfe")  # also what is no text
        waiting.join(0.1)
        path.unlink()
    waiting.join(30)
    assert order == [True]


def test_a_file_system_without_locks_is_one_line(home, moworld, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    before = state(home)
    status, out, err = moworld("rollback", NAME)
    assert (status, out) == (2, "") and "No locks available, expected a file system with locks" in one_line(err) and state(home) == before


def test_a_lost_private_key_is_not_replaced_beside_its_public_key(home, moworld):
    public = home / "keys" / "signing.pub"
    text, before = public.read_text(), state(home)
    (home / "keys" / "signing.pem").unlink()
    status, out, err = moworld("rollback", NAME)
    assert (status, out) == (2, "") and "expected the private key of" in one_line(err) and state(home) == before
    assert public.read_text() == text and not (home / "keys" / "signing.pem").exists()
    assert moworld("verify", NAME)[0] == 0
