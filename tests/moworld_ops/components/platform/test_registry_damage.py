"""Damaged ledgers, databases, signatures and answers of servers: one line each, 1 for what was signed or recorded, 2 for what cannot be read."""

import http.server
import json
import shutil
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moworld.errors import InputError
from moworld.evaluation.gate_policy import incomplete
from moworld.evaluation.gates import Gate
from moworld_ops.components.platform import keys, ledger, releases
from moworld_ops.components.platform.ledger import CLOCK
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.tracking import engine_at, readable, sqlite_uri, store_at
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import GATES, NAME, forget, run_folder, sql, state
from tests.moworld_ops.components.platform.test_verification import write_rows

DEEP = "[" * 200_000


def one_line(text: str) -> str:
    assert len(text.strip().splitlines()) == 1 and text.strip().isprintable(), text[:400]
    return text


def write_line(home: Path, change: dict, place: int = -1) -> None:
    """Changes a line of the ledger, which is hashed and signed again by its manager, with all that follow."""
    before, rows = ledger.START, []
    entries = [json.loads(text) for text, _ in ModelRegistry().ledger.rows()]
    entries[place] = {key: value for key, value in {**entries[place], **change}.items() if value != "absent"}
    for entry in entries:
        entry["before"] = before
        entry["hash"] = before = ledger.entry_hash(entry)
        text = ledger.encode(entry)
        rows.append((text, keys.encode(keys.sign(text.encode())[0])))
    forget(home)
    write_rows(home / "mlflow" / "mlflow.db", rows)
    sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", before)


LINES = [
    {"action": "absent"}, {"action": 5}, {"key": [1]}, {"key": None}, {"version": "absent"}, {"version": ["1"]}, {"time": "soon"},
    {"time": "2026-01-01"}, {"time": 7}, {"verdict": 5}, {"verdict": [{}]}, {"gates": "none"}, {"metrics": [1]}, {"removed": [1]}, {"model": None},
    {"by": {}}, {"reason": 3}, {"public_key": "garbage"}, {"action": "trust", "public_key": "garbage", "name": "x"}, {"action": "revoke"},
    {"action": "withdraw"}, {"action": "trust", "name": "x", "public_key": 4}, {"clock": "never"},
]  # fmt: skip


@pytest.mark.parametrize("change", LINES, ids=str)
def test_a_line_of_another_form_that_its_manager_signed_is_found(home, moworld, change):
    write_line(home, change)
    for command in (("verify", f"{NAME}@3"), ("history", NAME), ("rollback", NAME)):
        status, out, err = moworld(*command)
        assert (status, out) == (1, "") and "line " in one_line(err)


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, "", "5", "null", "[]", "\ud800".encode("utf-8", "surrogatepass"), "NaN", "{}", '"' * 9])
def test_a_line_that_is_no_line_is_found(home, moworld, text):
    sql(home, "UPDATE moworld_ledger SET line = ? WHERE position = 2", text)
    status, out, err = moworld("verify", f"{NAME}@3")
    assert out == "" and status in ((1, 2) if isinstance(text, bytes) else (1,)) and one_line(err)


@pytest.mark.parametrize("part", ["model.sig", "evidence.sig"])
@pytest.mark.parametrize("kind", ["list for a hint", "no signatures", "number for a payload", "deep", "list", "deep statement"])
def test_a_signature_of_another_form_is_found(home, moworld, part, kind):
    path = run_folder(home, "3") / part
    bundle = json.loads(path.read_text())
    if kind == "list for a hint":
        bundle["verificationMaterial"]["publicKey"]["hint"] = []
    elif kind == "no signatures":
        bundle["dsseEnvelope"]["signatures"] = []
    elif kind == "number for a payload":
        bundle["dsseEnvelope"]["payload"] = 5
    elif kind == "deep statement":
        payload = DEEP.encode()
        data = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        bundle["dsseEnvelope"] |= {"payload": keys.encode(payload), "signatures": [{"sig": keys.encode(keys.sign(data)[0])}]}
    path.write_text({"deep": DEEP, "list": "[1]"}.get(kind) or json.dumps(bundle))
    status, out, err = moworld("verify", f"{NAME}@3")
    assert (status, out) == (1, "") and "signature" in one_line(err)


DATABASE = {
    "creation_time": "UPDATE model_versions SET creation_time = 'abc'",
    "version": "UPDATE registered_model_aliases SET version = 'abc'",
    "source": "UPDATE model_versions SET source = x'ff00'",
    "run": "UPDATE model_versions SET run_id = x'ff00'",
    "metric": "UPDATE latest_metrics SET value = 'abc'",
    "metric's name": "UPDATE latest_metrics SET key = x'ff' WHERE key = 'drift'",
    "tag": "UPDATE model_version_tags SET value = x'ff' WHERE key = 'data_revision'",
}


@pytest.mark.parametrize("kind", DATABASE)
@pytest.mark.parametrize("command", [("list",), ("verify", f"{NAME}@3")], ids=lambda command: command[0])
def test_a_value_of_another_type_in_the_database_is_found(home, moworld, kind, command):
    sql(home, DATABASE[kind])
    status, out, err = moworld(*command)
    assert (status, out) == (1, "") and one_line(err)


# servers


@contextmanager
def serving(answer):
    """Yields the address of a server whose answers `answer(handler)` writes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            answer(self)

        def log_message(self, *_):
            """Prints nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


BODIES = [
    "[]", "5", '"x"', "null", '{"registered_models": 5}', '{"registered_models": [{}]}', '{"registered_models": [{"name": null}]}',
    '{"registered_models": ["a"]}', '{"registered_models": [{"name": "m", "aliases": [{"alias": 1}]}]}', DEEP, '{"a":' * 100_000, '{"registered_models": null}',
    '{"registered_models": [{"name": "m", "tags": {"a": "b"}}]}', '{"registered_models": [{"name": "m", "aliases": [5]}]}', '{"next_page_token": 5}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:60])
def test_an_answer_of_another_form_is_refused(home, moworld, monkeypatch, body):
    with serving(lambda handler: handler.wfile.write(body.encode())) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        status, out, err = moworld("list")
    assert (status, out) == (2, "") and "MLflow" in one_line(err)


def drip(handler) -> None:
    """Writes a byte every half second."""
    for _ in range(40):
        try:
            handler.wfile.write(b" ")
        except OSError:  # the client has gone
            return
        time.sleep(0.5)


PAGE = b'{"registered_models": [], "next_page_token": "same"}'


@pytest.mark.parametrize("kind", ["drip", "the same page"])
def test_an_answer_that_does_not_end_is_refused_within_10_seconds(kind):
    started = time.monotonic()
    with serving(drip if kind == "drip" else lambda handler: handler.wfile.write(PAGE)) as address, pytest.raises(InputError) as caught:
        store_at(address).models()
    assert time.monotonic() - started < 10 and str(caught.value).isprintable()


# addresses, passwords, disks


@pytest.mark.parametrize("address", ["postgresql://u@127.0.0.1:1/db", "postgres://u@127.0.0.1:1/db", "postgresql+asyncpg://u@127.0.0.1:1/db", "sqlite:///"])
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MOWORLD_REGISTRY_DATABASE"])
def test_a_database_that_is_not_there_is_one_line(home, moworld, monkeypatch, address, variable):
    monkeypatch.setenv(variable, address)
    status, out, err = moworld("verify", f"{NAME}@3")
    assert (status, out) == (2, "") and "expected" in one_line(err)


@pytest.mark.parametrize("file", ["/nonexistent/x.db", "{home}/x.db", "{home}", "/proc/x.db"])
def test_a_mistyped_file_of_the_ledger_is_a_mistake(home, moworld, monkeypatch, file):
    monkeypatch.setenv("MOWORLD_REGISTRY_DATABASE", "sqlite:///" + file.format(home=home))
    status, out, err = moworld("verify", f"{NAME}@3")
    assert (status, out) == (2, "") and "restore" not in one_line(err)


@pytest.mark.parametrize("value", [":", "::", " : ", " "])
def test_public_keys_that_name_nothing_are_refused(home, moworld, monkeypatch, value):
    monkeypatch.setenv("MOWORLD_SIGNING_PUBLIC_KEY", value)
    status, out, err = moworld("verify", NAME)
    assert (status, out) == (2, "") and "MOWORLD_SIGNING_PUBLIC_KEY" in one_line(err)


def test_a_wrong_password_is_named(tmp_path, monkeypatch):
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    (tmp_path / "key.pem").write_bytes(pem)
    monkeypatch.setenv(keys.PASSWORD, "guess")
    with pytest.raises(InputError, match="check the password"):
        keys.load_private(tmp_path / "key.pem")


def test_a_full_disk_is_called_so(home):
    engine = engine_at(sqlite_uri(home / "mlflow" / "mlflow.db"))
    with pytest.raises(InputError, match=f"free space in {home / 'mlflow'}"), readable(engine), engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        connection.exec_driver_sql("CREATE TABLE big AS WITH n(x) AS (SELECT randomblob(100000)) SELECT * FROM n")


# texts


@pytest.mark.parametrize("text", ["\x1b[31mred", "right \u202e left", "two\nlines", "\udcff", "\x07", "a\tb"])
@pytest.mark.parametrize("command", ["rollback", "adopt", "gc", "promote"])
def test_a_reason_that_is_not_printable_is_refused(home, moworld, profile, command, text):
    if command == "adopt":
        sql(home, "UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")
    before = state(home)
    rest = {"promote": (f"{NAME}@4", "--profile", profile), "gc": (NAME, "--keep", 1, "--yes")}.get(command, (NAME,))
    status, out, err = moworld(command, *rest, "--reason", text)
    assert (status, out) == (2, "") and "printable" in one_line(err) and state(home) == before
    assert (run_folder(home, "1") / "model").is_dir()


@pytest.mark.parametrize("text", ["\x1b[31mred", "right \u202e left", "two\nlines", "\udcff"])
def test_a_stored_reason_is_printed_escaped(home, moworld, text):
    write_line(home, {"reason": text})
    status, out, _ = moworld("history", NAME)
    assert status == 0 and all(line.isprintable() for line in out.splitlines()) and text.encode("unicode_escape").decode() in out
    assert json.loads(moworld("history", NAME, "--json")[1])[-1]["reason"] == text


def test_a_list_is_json_whatever_was_measured(home, moworld):
    sql(home, "UPDATE latest_metrics SET value = 9e999 WHERE key = 'drift'")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = json.loads(moworld("list", "--json")[1], parse_constant=refuse)
    assert rows[0]["metrics"]["drift"] is None


# clocks


def ahead(home: Path, tmp_path: Path, foreign: bool) -> None:
    """Makes the last line one of ten years ahead: this manager's, or bob's, whose key is trusted."""
    later = (datetime.now(UTC) + timedelta(days=3650)).isoformat(timespec="seconds")
    if not foreign:
        write_line(home, {"time": later})
        return
    bob = ec.generate_private_key(ec.SECP256R1())
    pem = bob.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "bob.pem").write_bytes(pem)
    public = bob.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "bob.pub").write_bytes(public)
    registry = ModelRegistry()
    releases.trust(registry, tmp_path / "bob.pub", "bob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(keys.KEY, str(tmp_path / "bob.pem"))
        releases.rollback(registry, NAME)
        line = {**registry.ledger.entries()[-1], "time": later}
        line["hash"] = ledger.entry_hash(line)
        text = ledger.encode(line)
        signature = keys.encode(keys.sign(text.encode())[0])
    forget(home)
    sql(home, "UPDATE moworld_ledger SET line = ?, signature = ? WHERE position = ?", text, signature, line["index"])
    sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", line["hash"])


@pytest.mark.parametrize("foreign", [True, False])
def test_a_fast_clock_of_one_manager_blocks_nobody_for_ever(home, tmp_path, monkeypatch, foreign):
    ahead(home, tmp_path, foreign)
    registry, before = ModelRegistry(), state(home)
    if not foreign:
        with pytest.raises(InputError, match=f"clock.*{CLOCK}=accept"):
            releases.rollback(registry, NAME)
        assert state(home) == before
        monkeypatch.setenv(CLOCK, "accept")
    releases.rollback(registry, NAME, "1")
    monkeypatch.delenv(CLOCK, raising=False)
    line, last = registry.entries(NAME)[-1], registry.entries(NAME)[-2]
    assert line["time"] == last["time"] and datetime.fromisoformat(line["clock"]) < datetime.fromisoformat(line["time"]) - timedelta(days=3000)
    releases.rollback(registry, NAME, "2")
    assert verify_release(registry, registry.find(NAME)) == len(registry.entries(NAME))


# gates


@pytest.mark.parametrize(
    "gate",
    [{"metric": "student_next_chunk_psnr", "at_least": bound} for bound in (-1e24, 0, 6)] +
    [{"metric": "student_next_chunk_psnr", "at_most": 1e24}, {"metric": "student_next_chunk_psnr", "above": "drift"},
     {"metric": "turning_correlation", "at_least": -1}, {"metric": "turning_correlation", "at_most": 1}, {"metric": "swapped_turns", "at_most": 1},
     {"metric": "drift", "at_most": 1e24}, {"metric": "drift", "at_least": 0}, {"metric": "last_frame_psnr", "at_least": 10},
     {"metric": "real_swapped_turns", "at_most": 0.1}, {"metric": "teacher_next_chunk_mse", "at_most": 1}, {"metric": "walk_contrast", "at_least": 0}],
    ids=str,
)  # fmt: skip
def test_a_bound_that_needs_no_model_is_no_quality_gate(gate):
    assert [row["gate"] for row in incomplete([*GATES[:2], Gate(**gate)])] == ["a metric of held-out clips among the gates"]


def test_a_state_folder_without_its_pins_is_still_read(home):
    shutil.rmtree(home / "keys")
    assert verify_release(ModelRegistry(), ModelRegistry().find(NAME)) == 3
