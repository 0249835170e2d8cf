"""Contract files: any value in any place is read, or refused in one line."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moworld.errors import InputError
from moworld_ops.data_contracts.load import Contract, parse_contract
from moworld_ops.pipelines.contracts import find_contract
from tests.moworld_ops.data_contracts.test_check import TEXT

ABSENT = object()
OTHERS = [ABSENT, None, 3, "x", [], {}, [None], [3], True, -1.5, math.nan]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return None if value is ABSENT else value
    node = changed = copy.deepcopy(content)
    for key in path[:-1]:
        node = node[key]
    if value is ABSENT:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


@pytest.mark.parametrize("value", OTHERS, ids=[*("absent", "null"), *map(repr, OTHERS[2:])])
def test_any_value_in_any_place_is_read_or_refused_in_one_line(value):
    content, refused = yaml.safe_load(TEXT), 0
    for path in places(content):
        try:
            contract = parse_contract(yaml.safe_dump(replaced(content, path, value)), "made.yaml")
        except InputError as error:
            refused += 1
            assert str(error).startswith("made.yaml: ") and "\n" not in str(error)
        else:
            assert isinstance(contract, Contract) and contract.name and all(column.name for column in contract.columns)
    assert refused


def test_bounds_that_are_no_numbers_are_refused():
    assert "minimum: 2" in TEXT
    with pytest.raises(InputError, match=r"a\.quality"):
        parse_contract(TEXT.replace("minimum: 2", "minimum: two"), "made.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "clips.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"clips\.yaml"):
        find_contract(str(tmp_path / "clips.yaml"))
