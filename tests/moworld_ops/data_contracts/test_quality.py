"""Quality features of ODCS 3.1: each is enforced, or refused by its name in one line."""

import copy
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.errors import InputError
from moworld_ops.data_contracts.check import check_rows
from moworld_ops.data_contracts.compare import compare, needed_level
from moworld_ops.data_contracts.expectations import validate
from moworld_ops.data_contracts.load import Contract, parse_contract
from moworld_ops.data_contracts.rules import FORMATS, compiled

HEAD = {
    "apiVersion": "v3.1.0", "kind": "DataContract", "id": "made", "name": "made", "version": "1.2.3", "status": "active",
    "customProperties": [{"property": "maxRejectedShare", "value": 0.5}],
}  # fmt: skip


def text(properties=(), quality=None, **head) -> str:
    columns = [{"name": "clip_id", "logicalType": "string"}, *properties]
    table = {"name": "made", "properties": columns, **({"quality": quality} if quality else {})}
    return yaml.safe_dump({**HEAD, "schema": [table], **head}, sort_keys=False)


def made(kind="string", quality=None, **column) -> Contract:
    rules = {"quality": [{"id": "q", **quality}]} if quality else {}
    return parse_contract(text([{"name": "a", "logicalType": kind, **column, **rules}]), "made.yaml")


def broken(contract: Contract, *values) -> list[list[str]]:
    """Returns the broken rules of each row with such a value in column a."""
    failures = check_rows([{"clip_id": str(i), "a": value} for i, value in enumerate(values)], contract).failures
    return [[failure["rule"] for failure in failures if failure["row"] == str(i)] for i in range(len(values))]


def options(kind="string", **given) -> Contract:
    return made(kind, logicalTypeOptions=given)


def metric(name, kind="string", operator=("mustBe", 0), **more) -> Contract:
    return made(kind, {"metric": name, operator[0]: operator[1], **more})


@pytest.mark.parametrize(
    ("contract", "good", "bad", "rule"),
    [
        (options(pattern="^(train|test)$"), ["train", None], ["trains", "train\n", ""], "a-pattern"),
        (options(pattern=r"\d{2}$"), ["a12"], ["a1", "a١٢"], "a-pattern"),
        (options(minLength=2, maxLength=3), ["ab", "äöü", "狭窄的"], ["a", "abcd"], "a-length"),
        (options(format="uuid"), ["8d5f7ea5-4cb5-4a5f-9b7a-7a4f0e8a2b11"], ["8d5f7ea54cb54a5f9b7a7a4f0e8a2b11", "x"], "a-format"),
        (options(format="uri"), ["s3://bucket/a.mp4", "urn:x:1"], ["a.mp4", "http://a b"], "a-format"),
        (options(format="email"), ["a@b.org"], ["a@", "a b@c.org"], "a-format"),
        (options(format="ipv4"), ["10.0.0.1"], ["10.0.0.256", "::1"], "a-format"),
        (options(format="ipv6"), ["::1"], ["10.0.0.1"], "a-format"),
        (options(format="hostname"), ["a-b.example.org"], ["-a.org", "a_b"], "a-format"),
        (options(format="byte"), ["aGk="], ["a", "*"], "a-format"),
        (options("number", minimum=0, maximum=1), [0, 1.0, None, math.nan], [-0.1, 1.1, math.inf, -math.inf], "a-range"),
        (options("number", exclusiveMinimum=0, exclusiveMaximum=1), [0.5], [0, 1, 0.0], "a-range"),
        (options("number", multipleOf=0.1), [0.3, 1, 0], [0.25, math.inf], "a-multipleOf"),
        (options("number", format="f32"), [3e38], [4e38], "a-format"),
        (options("integer", multipleOf=4), [8, 0, -4], [6], "a-multipleOf"),
        (options("integer", format="u8"), [0, 255], [-1, 256, 10**400], "a-format"),
        (options("integer", format="i16"), [-32768], [32768], "a-format"),
        (made(enum=[{"value": "train"}, {"value": "test"}]), ["train"], ["trian", "Train"], "a-enum"),
        (made("integer", enum=[{"value": 1}, {"value": 2}]), [1], [3], "a-enum"),
        (made(required=True), ["x"], [None], "a-required"),
        (metric("invalidValues", arguments={"validValues": ["a", "b"]}), ["a", None], ["c"], "q"),
        (metric("invalidValues", arguments={"pattern": "^a"}), ["ab"], ["ba"], "q"),
        (metric("invalidValues", "number", arguments={"minimum": 2}), [2], [1.9], "q"),
        (metric("nullValues"), ["a"], [None], "q"),
        (metric("nullValues", operator=("mustBeLessOrEqualTo", 0)), ["a"], [None], "q"),
        (metric("missingValues", arguments={"missingValues": [None, "", "N/A"]}), ["a"], [None, "", "N/A"], "q"),
        (metric("nullValues", unit="percent", dimension="completeness", description="d"), ["a"], [None], "q"),
    ],
)  # fmt: skip
def test_a_rule_on_rows_accepts_and_rejects(contract, good, bad, rule):
    assert broken(contract, *good) == [[]] * len(good)
    assert broken(contract, *bad) == [[rule]] * len(bad)


def test_unique_values_and_a_primary_key():
    assert broken(metric("duplicateValues"), "x", "x", "y", None, None) == [["q"], ["q"], [], [], []]
    assert broken(made(primaryKey=True), "x", "x", "y", None) == [["primary-key"], ["primary-key"], [], ["a-required"]]
    keys = [{"name": name, "logicalType": "integer", "primaryKey": True, "primaryKeyPosition": n} for n, name in ((2, "a"), (1, "b"))]
    contract = parse_contract(text(keys), "made.yaml")
    rows = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1}, {"a": 2, "b": None}]
    report = check_rows(rows, contract)
    assert report.accepted == [1] and [(f["row"], f["rule"]) for f in report.failures] == [(0, "primary-key"), (2, "primary-key"), (3, "b-required")]
    assert report.failures[0]["value"] == "1, 1" and "b, a" in report.failures[0]["threshold"]  # in the order of their positions
    rule = {"id": "pair", "metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["a", "b"]}}
    table = parse_contract(text([{"name": name, "logicalType": "integer"} for name in "ab"], [rule]), "made.yaml")
    assert check_rows(rows, table).accepted == [1, 3]
    assert validate(rows, table)["success"] is False and validate(rows[:2], table)["success"] is True


@pytest.mark.parametrize(
    ("rule", "values", "passes"),
    [
        ({"metric": "nullValues", "mustBeLessThan": 50, "unit": "percent"}, ["a", "b", None], True),
        ({"metric": "nullValues", "mustBeLessThan": 50, "unit": "percent"}, ["a", None], False),
        ({"metric": "nullValues", "mustBeLessOrEqualTo": 1}, ["a", None], True),
        ({"metric": "nullValues", "mustBeLessOrEqualTo": 1}, [None, None], False),
        ({"metric": "duplicateValues", "mustBe": 2}, ["a", "a", "b"], True),
        ({"metric": "duplicateValues", "mustNotBe": 2}, ["a", "a", "b"], False),
        ({"metric": "invalidValues", "mustBeBetween": [1, 2], "arguments": {"validValues": ["a"]}}, ["a", "b"], True),
        ({"metric": "invalidValues", "mustNotBeBetween": [1, 2], "arguments": {"validValues": ["a"]}}, ["a", "b"], False),
        ({"metric": "invalidValues", "mustBeGreaterThan": 1, "arguments": {"pattern": "^a", "maxLength": 1}}, ["ab", "b", "a"], True),
        ({"metric": "missingValues", "mustBeGreaterOrEqualTo": 3, "arguments": {"missingValues": ["-"]}}, ["-", None, "a"], False),
    ],
)
def test_a_rule_with_a_tolerance_is_one_on_the_batch_and_rejects_no_row(rule, values, passes):
    report = check_rows([{"a": value} for value in values], made(quality=rule))
    assert report.accepted == list(range(len(values))) and report.passed == passes == (not report.batch)
    assert report.batch_fails([1] * len(values)) != passes
    assert passes or (report.batch[0]["rule"], report.batch[0]["value"].split(" of ")[1]) == ("q", f"{len(values)} rows")


@pytest.mark.parametrize(
    ("rule", "passing"),
    [
        (None, [1, 2, 3]),
        ({"mustBeGreaterThan": 1}, [2, 3]),
        ({"mustBeGreaterOrEqualTo": 0}, [0, 1, 2, 3]),
        ({"mustBeLessThan": 3}, [1, 2]),  # an upper bound alone does not allow an empty batch
        ({"mustBe": 0}, [0]),
        ({"mustBeBetween": [0, 2]}, [0, 1, 2]),
        ({"mustBeGreaterThan": 2, "severity": "warning"}, [1, 2, 3]),
    ],
)
def test_the_number_of_rows_is_checked_and_none_is_a_failure_unless_allowed(rule, passing):
    contract = parse_contract(text(quality=[{"id": "rows", "metric": "rowCount", **rule}] if rule else None), "made.yaml")
    assert [count for count in range(4) if check_rows([{"clip_id": str(i)} for i in range(count)], contract).passed] == passing


def test_a_rule_that_only_warns_is_reported_and_rejects_nothing():
    warns = made("number", {"metric": "invalidValues", "mustBe": 0, "severity": "warning", "arguments": {"maximum": 1}})
    report = check_rows([{"clip_id": "x", "a": 7.0}], warns)
    assert report.accepted == [0] and report.failures == [] and report.passed
    assert report.warnings == [{"row": "x", "rule": "q", "value": 7.0, "threshold": "-inf to 1 (warning)"}]
    batch = made(quality={"metric": "nullValues", "mustBeLessThan": 1, "severity": "info"})
    assert [entry["rule"] for entry in check_rows([{"a": None}], batch).warnings] == ["q"]


ONE = {"id": "q", "metric": "invalidValues", "mustBe": 0, "arguments": {"minimum": 1}}


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"quality": [{"id": "q", "type": "sql", "query": "SELECT 1", "mustBe": 0}]}, "a.quality.q.type: found a rule in SQL"),
        ({"quality": [{"id": "q", "type": "custom", "engine": "soda", "implementation": "x"}]}, "a rule of engine soda"),
        ({"quality": [{"id": "q", "type": "text", "description": "nice"}]}, "a rule in words"),
        ({"quality": [{**ONE, "schedule": "0 2 * * *"}]}, "a.quality.q.schedule"),
        ({"quality": [{**ONE, "customProperties": [{"property": "a", "value": 1}]}]}, "a.quality.q.customProperties"),
        ({"quality": [{**ONE, "severity": "waning"}]}, "did you mean warning?"),
        ({"quality": [{**ONE, "dimension": "validity"}]}, "a.quality.q.dimension"),
        ({"quality": [{**ONE, "unit": "percents"}]}, "did you mean percent?"),
        ({"quality": [{**ONE, "metric": "invalidValue"}]}, "did you mean invalidValues?"),
        ({"quality": [{**ONE, "metric": "rowCount"}]}, "rowCount in the table's quality"),
        ({"quality": [{**ONE, "mustBeLessThan": 3}]}, "found 2 operators"),
        ({"quality": [{"id": "q", "metric": "invalidValues", "arguments": {"minimum": 1}}]}, "found 0 operators"),
        ({"quality": [{"metric": "nullValues", "mustBe": 0}]}, "a rule without id"),
        ({"quality": [{**ONE, "arguments": {"minimum": "1"}}]}, "arguments.minimum: found '1', expected a finite number"),
        ({"quality": [{**ONE, "arguments": {"minimum": True}}]}, "arguments.minimum: found True"),
        ({"quality": [{**ONE, "arguments": {"minimum": math.nan}}]}, "arguments.minimum: found nan"),
        ({"quality": [{**ONE, "arguments": {"maximum": math.inf}}]}, "arguments.maximum: found inf"),
        ({"quality": [{**ONE, "arguments": {"minimum": 2, "maximum": 1}}]}, "minimum 2 and maximum 1"),
        ({"quality": [{**ONE, "arguments": {"minimun": 2}}]}, "did you mean minimum?"),
        ({"quality": [{**ONE, "arguments": {}}]}, "a.quality.q.arguments: found nothing"),
        ({"quality": [{**ONE, "arguments": {"validValues": ["x"]}}]}, "expected values of type number"),
        ({"quality": [{**ONE, "mustBe": True}]}, "a.quality.q.mustBe: found True"),
        ({"quality": [{"id": "q", "metric": "nullValues", "mustBeLessThan": 101, "unit": "percent"}]}, "a number from 0 to 100"),
        ({"quality": [{"id": "q", "metric": "nullValues", "mustBeBetween": [3, 1]}]}, "two rising numbers"),
        ({"quality": [{"id": "q", "metric": "missingValues", "mustBe": 0}]}, "arguments.missingValues"),
        ({"quality": [ONE, ONE]}, "quality.id: found q 2 times"),
        ({"quality": None}, "quality: found nothing"),
        ({"logicalTypeOptions": {"minLength": 1}}, "a.logicalTypeOptions: found 'minLength'"),
        ({"logicalTypeOptions": {"enum": [1]}}, "a.logicalTypeOptions.enum"),
        ({"logicalTypeOptions": {"minimum": 1, "exclusiveMinimum": 1}}, "both minimum and exclusiveMinimum"),
        ({"logicalTypeOptions": {"exclusiveMinimum": 1, "maximum": 1}}, "a range with a value in it"),
        ({"logicalTypeOptions": {"multipleOf": 0}}, "a.logicalTypeOptions.multipleOf"),
        ({"logicalTypeOptions": {"format": "f16"}}, "a.logicalTypeOptions.format"),
        ({"logicalType": "string", "logicalTypeOptions": {"pattern": "("}}, "a regular expression"),
        ({"logicalType": "string", "logicalTypeOptions": {"format": "password"}}, "no check has this format"),
        ({"logicalType": "string", "logicalTypeOptions": {"minLength": 3, "maxLength": 1}}, "rising counts"),
        ({"logicalType": "date"}, "a.logicalType: found 'date'"),
        ({"enum": [{"value": 1}, {"value": 1}]}, "a value twice"),
        ({"enum": [{"label": "x"}]}, "entries with a value"),
        ({"required": "yes"}, "required: found 'yes'"),
        ({"relationships": [{"to": "x.y"}]}, "a.relationships: found a key that no check enforces"),
        ({"physicalName": "col_a"}, "a.physicalName"),
        ({"primaryKeyPosition": 1}, "a.primaryKeyPosition"),
        ({"customProperties": [{"property": "fileKin", "value": "video"}]}, "did you mean fileKind?"),
        ({"customProperties": [{"property": "fileKind", "value": "film"}]}, "a.fileKind: found 'film'"),
        ({"customProperties": [{"property": "sha256Of", "value": "b"}]}, "a.sha256Of: found 'b'"),
        ({"requird": True}, "requird: found an unknown key"),
    ],
)  # fmt: skip
def test_what_no_check_enforces_and_what_is_wrong_is_one_line_that_names_it(column, words):
    with pytest.raises(InputError, match=r"^made\.yaml: ") as caught:
        parse_contract(text([{"name": "a", "logicalType": "number", **column}]), "made.yaml")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": ...}, "version: found None, expected MAJOR.MINOR.PATCH"),
        ({"version": 2}, "version: found 2"),
        ({"version": "1.0"}, "version: found '1.0'"),
        ({"apiVersion": "v2.2.2"}, "apiVersion: found 'v2.2.2'"),
        ({"status": "actve"}, "did you mean active?"),
        ({"status": ...}, "status: found None"),
        ({"kind": "DataProduct"}, "kind: found 'DataProduct'"),
        ({"id": ...}, "id: found None"),
        ({"slaProperties": [{"property": "latency", "value": 4}]}, "slaProperties: found a key that no check enforces"),
        ({"customProperties": None}, "customProperties: found nothing"),
        ({"customProperties": HEAD["customProperties"] * 2}, "maxRejectedShare 2 times"),
        ({"customProperties": [{"property": "maxRejectedshare", "value": 0.5}]}, "did you mean maxRejectedShare?"),
        ({"customProperties": [{"property": "maxRejectedShare", "value": math.nan}]}, "maxRejectedShare: found nan"),
        ({"customProperties": [{"property": "maxRejectedShare", "value": "0.1"}]}, "maxRejectedShare: found '0.1'"),
        ({"customProperties": [{"property": "maxRejectedShare", "value": True}]}, "maxRejectedShare: found True"),
        ({"schema": ...}, "found 0 tables"),
    ],
)
def test_an_error_at_the_top_of_a_contract_is_one_line(change, words):
    content = yaml.safe_load(text())
    for key, value in change.items():
        content.pop(key, None) if value is ... else content.update({key: copy.deepcopy(value)})
    with pytest.raises(InputError, match=r"^made\.yaml: ") as caught:
        parse_contract(yaml.safe_dump(content), "made.yaml")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_twice_is_refused():
    with pytest.raises(InputError, match="key version a second time in line"):
        parse_contract(text() + "version: 3.0.0\n", "made.yaml")


def test_a_changed_pattern_enumeration_severity_or_batch_rule_needs_a_major_version():
    base = options(pattern="^a")
    changes = [options(pattern="^b"), made(), made(enum=[{"value": "a"}], logicalTypeOptions={"pattern": "^a"}),
               made("string", {"metric": "nullValues", "mustBeLessThan": 2}, logicalTypeOptions={"pattern": "^a"})]  # fmt: skip
    assert [needed_level(compare(base, changed)) for changed in changes] == ["major"] * 4
    one, other = metric("nullValues"), metric("nullValues", severity="warning")
    assert [change.what for change in compare(one, other)] == ["rule q: required became required (warning)"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text("ab", max_size=4)), min_size=1, max_size=6))
def test_great_expectations_agrees_on_texts(values):
    contract = parse_contract(text([{"name": "a", "logicalType": "string", "enum": [{"value": "a"}, {"value": "ab"}, {"value": "abab"}],
                                     "logicalTypeOptions": {"minLength": 2, "maxLength": 3, "pattern": "^a.*b$"}}]), "made.yaml")  # fmt: skip
    found = check_rows([{"a": value} for value in values], contract).failures
    names = {"expect_column_value_lengths_to_be_between": "a-length", "expect_column_values_to_be_in_set": "a-enum",
             "expect_column_values_to_match_regex": "a-pattern"}  # fmt: skip
    results = validate([{"a": value} for value in values], contract)["expectations"]
    assert {names[result["type"]] for result in results if not result["success"]} == {failure["rule"] for failure in found}


def test_patterns_are_those_of_ecma():
    assert compiled("^a$").search("a") and not compiled("^a$").search("a\n")
    assert compiled(r"[$]\$").search("$$") and not compiled(r"\d").search("٣") and set(FORMATS) >= {"uuid", "uri", "email"}
