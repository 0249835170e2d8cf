"""`moworld release`: one line and the right exit status for every mistake and every fault, and nothing is written by reading."""

import http.server
import json
import random
import shutil
import socket
import threading
import time

import pytest
import yaml

from moworld.files import sha256_tree
from moworld_ops.pipelines.cli import completion
from tests.moworld_ops.components.platform.registries import NAME, run_folder, sql, state


def one_line(text: str) -> str:
    assert len(text.strip().splitlines()) == 1 and text.strip().isprintable(), text
    return text


# mistakes


@pytest.mark.parametrize("reference", ["", " ", "@", "@1", "@champion", f"{NAME}@", f"{NAME}@9", f"{NAME}@x", f"{NAME}@1@2", "nobody", "nobody@1"])
@pytest.mark.parametrize("command", ["verify", "compare", "gates", "promote"])
def test_a_reference_to_nothing_is_one_line(home, moworld, profile, command, reference):
    rest = ("--profile", profile) if command in ("gates", "promote") else ()
    status, out, err = moworld(command, reference, *rest)
    assert (status, out) == (2, "") and "expected" in one_line(err)


@pytest.mark.parametrize(
    "command",
    [("list",), ("history", NAME), ("verify", NAME), ("compare", NAME), ("gates", NAME), ("promote", NAME), ("rollback", NAME),
     ("adopt", NAME, "--reason", "x"), ("gc", NAME), ("keys",)],
    ids=lambda command: command[0],
)  # fmt: skip
@pytest.mark.parametrize("place", ["empty", "missing"])
def test_an_empty_or_mistyped_home_is_one_line_and_stays_empty(tmp_path, monkeypatch, moworld, command, place):
    folder = tmp_path / "home"
    if place == "empty":
        folder.mkdir()
    monkeypatch.setenv("MOWORLD_HOME", str(folder))
    status, out, err = moworld(*command)
    assert (status, out) == (2, "") and "no registry" in one_line(err) and "MOWORLD_HOME" in err
    assert not folder.exists() if place == "missing" else not list(folder.iterdir())


# what was changed


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_version_exits_with_1_and_a_printable_line(home, moworld, seed):
    chance = random.Random(seed)
    folder = run_folder(home, "3")
    kind = ("bytes in a file", "bytes in a signature", "bytes in a tag", "bytes in the ledger")[seed % 4]
    junk = bytes(chance.randrange(256) for _ in range(60)) + b"\x1b[31m\x07"
    if kind == "bytes in a file":
        name = chance.choice(["evidence/metrics.json", "evidence/evidence.json", "model/model_index.json"])
        (folder / name).write_bytes(junk)
    elif kind == "bytes in a signature":
        (folder / chance.choice(["model.sig", "evidence.sig"])).write_bytes(junk)
    elif kind == "bytes in a tag":
        text = junk.decode("latin-1").replace("\0", "")
        sql(home, "UPDATE model_version_tags SET value = ? WHERE version = 3 AND key = 'data_revision'", text)
    else:
        sql(home, "UPDATE moworld_ledger SET line = ? WHERE position = 2", junk.decode("latin-1").replace("\0", ""))
    status, out, err = moworld("verify", NAME)
    assert (status, out) == (1, "") and one_line(err)


# a registry that does not answer


class Strange(http.server.BaseHTTPRequestHandler):
    """Answers every request with the status and the body of its server."""

    def do_GET(self):
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_):
        """Prints nothing."""


ANSWERS = {"500": (500, b"broken"), "502": (502, b"<html>"), "403": (403, b"Invalid Host header"), "401": (401, b""), "404": (404, b"no"),
           "html": (200, b"<html>"), "bytes": (200, bytes(range(256))), "cut": (200, b'{"registered_models": [')}  # fmt: skip


@pytest.mark.parametrize("kind", [*ANSWERS, "refused", "silent", "no such host"])
@pytest.mark.parametrize("command", [("list",), ("verify", f"{NAME}@1")], ids=lambda command: command[0])
def test_a_server_that_does_not_answer_is_one_line_within_10_seconds(home, moworld, monkeypatch, kind, command):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    address, server = f"http://127.0.0.1:{listening.getsockname()[1]}", None
    if kind == "silent":
        listening.listen()
    elif kind in ANSWERS:
        server = http.server.HTTPServer(("127.0.0.1", 0), Strange)
        server.status, server.body = ANSWERS[kind]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://no-such-host.invalid:5000" if kind == "no such host" else address)
    started = time.monotonic()
    status, out, err = moworld(*command)
    listening.close()
    if server:
        server.shutdown()
        server.server_close()
    assert (status, out) == (2, "") and "expected" in one_line(err) and time.monotonic() - started < 10


@pytest.mark.parametrize("kind", ["bytes", "cut", "text", "other tables", "directory"])
@pytest.mark.parametrize("command", [("list",), ("verify", NAME), ("rollback", NAME)], ids=lambda command: command[0])
def test_a_damaged_database_is_one_line(home, moworld, kind, command):
    path = home / "mlflow" / "mlflow.db"
    data = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "other tables":
        sql(home, "CREATE TABLE other (x)")
    else:
        path.write_bytes({"bytes": random.Random(0).randbytes(5000), "cut": data[: len(data) // 2], "text": b"hello\n"}[kind])
    status, out, err = moworld(*command)
    assert out == "" and (status == 2 or (kind == "cut" and status == 1)) and one_line(err)


@pytest.mark.parametrize("database", ["postgresql+psycopg2://nobody@127.0.0.1:1/none", "mysql://x", "nonsense", "postgresql+nodriver://x/y"])
def test_a_database_of_the_ledger_that_does_not_answer_is_one_line(home, moworld, monkeypatch, database):
    monkeypatch.setenv("MOWORLD_REGISTRY_DATABASE", database)
    started = time.monotonic()
    status, out, err = moworld("verify", NAME)
    assert (status, out) == (2, "") and "expected" in one_line(err) and time.monotonic() - started < 10


# what the commands print and write


def test_lists_history_and_comparisons_have_dates_metrics_reasons_and_verdicts(home, moworld, profile):
    before = sha256_tree(home)
    status, out, _ = moworld("list", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["version"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["created"][:2] == "20" and rows[3]["metrics"]["frames_per_second"] == 24
    assert "19.8" in (shown := moworld("list")[1]) and "frames_per_second" in shown
    status, out, _ = moworld("compare", f"{NAME}@4", "--json")
    found = {row["metric"]: (row["delta"], row["verdict"]) for row in json.loads(out)["metrics"]}
    assert found["frames_per_second"] == (1.0, "better") and found["student_next_chunk_psnr"][1] == "worse"
    assert found["drift"] == (0.0, "equal") and found["nested.number"] == (1.0, "")
    assert moworld("gates", f"{NAME}@4", "--profile", profile)[0] == 0
    assert moworld("verify", NAME)[0] == 0
    status, out, _ = moworld("keys", "--json")
    assert status == 0 and json.loads(out)[0]["fingerprint"] == json.loads(moworld("history", NAME, "--json")[1])[0]["key"]
    assert sha256_tree(home) == before
    assert moworld("promote", f"{NAME}@4", "--profile", profile, "--reason", "faster")[0] == 0
    line = json.loads(moworld("history", NAME, "--json")[1])[-1]
    assert (line["version"], line["reason"], line["action"], line["previous"]) == ("4", "faster", "promote", "3")
    assert "faster" in moworld("history", NAME)[1]


@pytest.mark.parametrize(("to", "version"), [(None, "2"), ("1", "1"), ("2", "2")])
def test_a_rollback_writes_the_patch_of_the_version_it_returns_to(home, tmp_path, moworld, to, version):
    status, out, _ = moworld("rollback", NAME, *(("--to", to) if to else ()), "--reason", "dark", "--patch", tmp_path / "player.yaml", "--json")
    assert status == 0 and json.loads(out)["version"] == version
    annotations = yaml.safe_load((tmp_path / "player.yaml").read_text())["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"moworld/model": f"{NAME}@{version}", "moworld/model-sha256": json.loads(out)["tags"]["model_sha256"]}


def test_a_refused_rollback_writes_no_patch(home, tmp_path, moworld):
    shutil.rmtree(run_folder(home, "2") / "model")
    before = state(home)
    status, out, err = moworld("rollback", NAME, "--patch", tmp_path / "player.yaml")
    assert (status, out) == (1, "") and one_line(err) and not (tmp_path / "player.yaml").exists() and state(home) == before


def test_a_shell_completes_models_and_their_versions(home, moworld):
    assert completion.models("") == [NAME] and completion.models("x") == []
    assert set(completion.references(f"{NAME}@")) >= {f"{NAME}@champion", f"{NAME}@1", f"{NAME}@4"}
    (home / "mlflow" / "mlflow.db").write_bytes(b"no database")
    assert completion.references("") == []


def test_reading_and_moving_import_neither_mlflow_nor_what_pictures_need(home, profile):
    import subprocess
    import sys

    commands = ("list", f"history {NAME}", f"verify {NAME}", f"compare {NAME}@4", "keys",
                f"gates {NAME}@4 --profile {profile}", f"promote {NAME}@4 --profile {profile}", f"rollback {NAME}")  # fmt: skip
    for command in commands:
        code = f"import sys; sys.argv = ['moworld', 'release', *'{command}'.split()]\n"
        code += "from moworld_ops.pipelines.cli.app import main\ntry:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        code += "assert not {'mlflow', 'model_signing', 'torch', 'kfp', 'numpy', 'PIL'} & sys.modules.keys(), 'imported'\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
