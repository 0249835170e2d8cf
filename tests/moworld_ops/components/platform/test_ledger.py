"""The chain of the ledger: damage is found, concurrent writers keep one chain."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.ledger import START, append, verify


def test_every_entry_has_the_hash_of_the_previous_one(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first, second = append(path, {"version": "1"}), append(path, {"version": "2"})
    assert first["before"] == START
    assert second["before"] == first["hash"]
    assert verify(path) == [first, second]


@pytest.mark.parametrize("damage", ["change", "remove", "swap", "forge"])
def test_a_changed_removed_or_moved_line_is_found(tmp_path, damage):
    path = tmp_path / "ledger.jsonl"
    for version in "123":
        append(path, {"version": version})
    lines = path.read_text().splitlines()
    if damage == "change":
        lines[1] = lines[1].replace('"version": "2"', '"version": "9"')
    elif damage == "remove":
        del lines[1]
    elif damage == "swap":
        lines[0], lines[1] = lines[1], lines[0]
    else:
        entry = json.loads(lines[2])
        lines.append(json.dumps({**entry, "version": "9"}))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="does not follow"):
        verify(path)
    with pytest.raises(InputError):
        append(path, {"version": "4"})


def test_concurrent_writers_keep_one_chain(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda version: append(path, {"version": version}), range(20)))
    assert sorted(entry["version"] for entry in verify(path)) == list(range(20))


def test_an_unfinished_line_is_ignored_and_removed(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = append(path, {"version": "1"})
    for part in ('{"version"', json.dumps({"version": "2"})):
        with path.open("a") as stream:
            stream.write(part)
        assert verify(path)[:1] == [first]
        append(path, {"version": "3"})
    assert [entry["version"] for entry in verify(path)] == ["1", "3", "3"]
