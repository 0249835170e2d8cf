"""The ledger: damage is found, concurrent writers keep one chain, and lines written before are imported."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moworld.errors import InputError, IntegrityError
from moworld_ops.components.platform import ledger
from moworld_ops.components.platform.ledger import START, Ledger


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def open_ledger(home: Path) -> Ledger:
    (home / "mlflow").mkdir(parents=True, exist_ok=True)
    return Ledger(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}", home / "ledger.jsonl")


def former_ledger(home: Path, versions: str) -> list[dict]:
    """Writes a ledger as it was before its lines were signed."""
    before, entries = START, []
    for index, version in enumerate(versions):
        entry = {"action": "promote", "model": "m", "version": version, "previous": None, "by": "ada", "index": index, "before": before}
        entry |= {"time": "2026-11-01T00:00:00+00:00", "model_sha256": ""}
        entry["hash"] = before = ledger.entry_hash(entry)
        entries.append(entry)
    home.mkdir(parents=True, exist_ok=True)
    (home / "ledger.jsonl").write_text("".join(f"{json.dumps(entry, sort_keys=True)}\n" for entry in entries))
    return entries


def test_every_line_has_the_hash_of_the_previous_one_and_the_first_lists_the_key(home):
    book = open_ledger(home)
    first, second = (book.append({"action": "promote", "model": "m", "version": version}) for version in "12")
    root, *others = book.entries()
    assert root["action"] == "trust" and root["before"] == START and root["key"] == first["key"]
    assert others == [first, second] and second["before"] == first["hash"]


def test_concurrent_writers_keep_one_chain(home):
    def write(number: int) -> None:
        book = open_ledger(home)
        with book.locked():
            book.append({"action": "promote", "model": "m", "version": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(20)))
    assert sorted(entry["version"] for entry in open_ledger(home).entries()[1:]) == list(range(20))


def test_one_who_waits_is_refused_for_one_holder_that_stays_and_not_for_many(home, monkeypatch):
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 3.0)
    holding, refused = threading.Event(), threading.Event()

    def hold(times: int, wait: Callable[[], object]) -> None:
        book = open_ledger(home)
        for _ in range(times):  # hardly a moment between two holders, so that one who waits is overtaken
            with book.locked():
                holding.set()
                wait()

    for times, wait in ((8, lambda: time.sleep(0.5)), (1, lambda: refused.wait(60))):
        holding.clear()
        holder = threading.Thread(target=hold, args=(times, wait))
        holder.start()
        assert holding.wait(30)
        if times > 1:
            with open_ledger(home).locked():
                pass
        else:
            with pytest.raises(InputError, match="held by another command"), open_ledger(home).locked():
                pass
            refused.set()
        holder.join()


def test_a_line_written_without_the_lock_is_refused_where_another_has_its_place(home):
    book = open_ledger(home)
    book.append({"action": "promote", "model": "m", "version": "1"})
    entries = book.entries()
    book.append({"action": "promote", "model": "m", "version": "2"})
    with pytest.raises(InputError, match="UNIQUE"):
        book._write(entries, {"action": "promote", "model": "m", "version": "3"})


@pytest.mark.parametrize("cut", ["", '{"version"', '{"version": "2"}'])
def test_a_ledger_of_unsigned_lines_is_read_then_imported_under_a_signed_line(home, cut):
    former = former_ledger(home, "121")
    with (home / "ledger.jsonl").open("a") as stream:
        stream.write(cut)  # its writer died
    book = open_ledger(home)
    assert book.entries() == former and not (home / "mlflow" / "mlflow.db").exists() and not (home / "keys").exists()
    written = book.append({"action": "promote", "model": "m", "version": "2"})
    entries = book.entries()
    assert entries[:3] == former and entries[3]["action"] == "import" and entries[3]["lines"] == 3 and entries[4] == written
    (home / "ledger.jsonl").unlink()
    assert open_ledger(home).entries() == entries
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as connection:
        connection.execute("UPDATE moworld_ledger SET line = replace(line, '\"ada\"', '\"bob\"') WHERE position = 1")
    connection.close()
    with pytest.raises(IntegrityError, match="line 2"):
        open_ledger(home).entries()


@pytest.mark.parametrize("damage", ["change", "remove", "swap", "forge"])
def test_a_damaged_ledger_of_unsigned_lines_is_refused(home, damage):
    former_ledger(home, "123")
    path = home / "ledger.jsonl"
    lines = path.read_text().splitlines()
    if damage == "change":
        lines[1] = lines[1].replace('"version": "2"', '"version": "9"')
    elif damage == "remove":
        del lines[1]
    elif damage == "swap":
        lines[0], lines[1] = lines[1], lines[0]
    else:
        lines.append(json.dumps({**json.loads(lines[2]), "version": "9"}))
    path.write_text("\n".join(lines) + "\n")
    for use in (open_ledger(home).entries, lambda: open_ledger(home).append({"action": "promote", "model": "m", "version": "4"})):
        with pytest.raises(IntegrityError, match="does not follow"):
            use()
