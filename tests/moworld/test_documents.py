"""JSON and YAML from outside: what is too large, too deep or not valid is one line."""

import time

import pytest

from moworld.documents import parse_json, parse_json_object, parse_yaml
from moworld.errors import InputError, invalid_value
from moworld.settings import PositiveInt, Settings

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("text", ["[" * 200_000, "9" * 5000, "{", "", "[1, ", '{"a": 01}', b"\xff\xfe\x00"])
def test_json_that_cannot_be_read_is_one_line(text):
    with pytest.raises(InputError) as caught:
        parse_json(text, "file.json")
    assert str(caught.value).startswith("file.json: found ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_of_another_type_is_refused_where_an_object_is_expected():
    assert parse_json_object('{"a": 1}', "f") == {"a": 1}
    with pytest.raises(InputError, match="found list, expected a JSON object"):
        parse_json_object("[]", "f")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "aliases that stand for more than"),
        ("x: &x {}\n" + "".join(f"y{n}: &y{n} {{<<: [{', '.join([f'*y{n - 1}' if n else '*x'] * 20)}]}}\n" for n in range(8)), "aliases"),
        ("&a [*a]", "inside each other"),
        ("[" * 5000, "inside each other"),
        ("{a: " * 100 + "1" + "}" * 100, "inside each other"),
        ("9" * 5000, "a number of 5000 characters"),
        ("2026-13-45", "not YAML"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("x" * 300_000, "more than 256 KiB"),
        ("a: 1" + ":1" * 100_000, "a number of 200001 characters in line 1"),
        ("a:\n  - 0x" + "f" * 200_000, "a number of 200002 characters in line 2"),
        ("a: !!bool x", "a tag"),
        ("a: !!timestamp x", "a tag"),
        ("a: !!int ''", "a tag"),
        ("a: " + "!" * 200_000, "not YAML"),
    ],
    ids=range(16),
)
def test_yaml_above_a_limit_is_one_line_at_once(text, words):
    started = time.process_time()
    with pytest.raises(InputError, match=words) as caught:
        parse_yaml(text, "profile.yaml", "a profile")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\nb: 2\na: 3", 3), ("x:\n  - {a: 1, 'a': 2}", 2), ("<<: {b: 1}\nc: {d: 1}\nc: 2", 3), ('{1: a, 1: b}', 1)]
)
def test_a_key_twice_in_a_mapping_is_one_line_with_its_place(text, line):
    with pytest.raises(InputError, match=rf"^f: found key \w a second time in line {line}, expected a profile; remove one") as caught:
        parse_yaml(text, "f", "a profile")
    assert "\n" not in str(caught.value)


def test_a_key_may_override_a_merged_one_and_return_in_another_mapping():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: {a: 1}", "f", "a profile")["b"] == {"x": 2}


def test_yaml_with_a_few_aliases_is_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", "f", "a profile") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert parse_yaml("", "f", "a profile") is None


@pytest.mark.parametrize("found", ["x" * 100_000, 10**6000, ["x" * 100_000]], ids=["text", "integer", "list"])
def test_an_error_shows_the_beginning_of_what_is_long(found):
    for error in (InputError("f.json", "field", found, "a number", "correct it"), InputError("f.json", found, 1, "a number", "correct it")):
        assert len(str(error)) < 1200 and str(error).startswith("f.json: ") and str(error).endswith("expected a number; correct it")


class _Count(Settings):
    count: PositiveInt


@pytest.mark.parametrize(
    "value", [10**6000, -(10**6000), float("nan"), float("inf"), "9" * 5000, [[]] * 100_000],
    ids=["big", "negative", "nan", "inf", "text", "list"],
)
def test_a_rejected_value_is_shown_in_one_short_line_whatever_it_is(value):
    with pytest.raises(ValueError) as caught:
        _Count(count=value)
    line = str(invalid_value("file.json", caught.value, "correct it"))
    assert line.startswith("file.json: count: found ") and len(line) < 400
