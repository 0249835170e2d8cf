"""Contracts: no row is lost, the YAML alone decides, and Great Expectations agrees."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.check import check_path, check_rows
from data_contracts.expectations import validate
from data_contracts.load import Contract, Rule, load_contract
from moworld.errors import InputError

CLIPS = load_contract("clips")
GOOD = {
    "clip_id": "a", "num_frames": 97, "camera": "cameras/a.txt", "epipolar_error_px": 0.4, "max_rotation_step_degrees": 3.0,
    "max_translation_step": 2.0, "brightness": 90.0, "contrast": 30.0, "sharpness": 100.0, "frozen_share": 0.0, "cut_score": 0.1,
    "registered_share": None,
}  # fmt: skip
value = st.one_of(st.none(), st.floats(), st.integers(-10, 400), st.text(max_size=3))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, value)), max_size=8))
def test_no_row_is_lost_and_each_rejected_one_has_a_reason(rows):
    report = check_rows(rows, CLIPS)
    assert len(report.accepted) + report.quarantined == report.rows == len(rows)
    named = {failure["row"] for failure in report.failures}
    for index, row in enumerate(rows):
        if index not in report.accepted:
            assert row.get("clip_id", index) in named or any(n != n for n in named if isinstance(n, float))
    for failure in report.failures:
        assert failure["rule"] in {rule.name for rule in CLIPS.rules} and failure["threshold"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(-5, 5)), st.integers(0, 4)), min_size=1, max_size=6))
def test_great_expectations_gives_the_same_verdict(pairs):
    rules = (
        Rule("a-required", "a", "required"), Rule("low", "a", "range", minimum=-1.0), Rule("both", "a", "range", -3.0, 2.0),
        Rule("b-unique", "b", "unique"),
    )  # fmt: skip
    contract = Contract("made", "1.0.0", rules, 0.5)
    rows = [{"a": math.nan if a is None else a, "b": b} for a, b in pairs]
    broken = {failure["rule"] for failure in check_rows(rows, contract).failures}
    told = validate(rows, contract)["expectations"]
    assert {rule.name for rule, verdict in zip(rules, told, strict=True) if not verdict["success"]} == broken


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"num_frames": 12}, "long-enough"),
        ({"camera": None}, "camera-required"),
        ({"epipolar_error_px": 1.6}, "cameras-agree-with-pictures"),
        ({"epipolar_error_px": math.nan}, "epipolar_error_px-required"),
        ({"max_rotation_step_degrees": 25.9}, "no-jump-in-rotation"),
        ({"max_translation_step": 13.0}, "no-jump-in-translation"),
        ({"registered_share": 0.5}, "enough-frames-registered"),
        ({"brightness": 5.0}, "neither-dark-nor-burnt"),
        ({"contrast": 1.0}, "something-to-see"),
        ({"sharpness": 1.0}, "not-blurred"),
        ({"frozen_share": 0.9}, "not-frozen"),
        ({"cut_score": 0.95}, "one-shot"),
        ({"brightness": "bright"}, "neither-dark-nor-burnt"),
    ],
)
def test_each_rule_of_the_clips_contract_rejects_what_it_names(change, rule):
    assert check_rows([GOOD], CLIPS).accepted == [0]
    report = check_rows([{**GOOD, **change}], CLIPS)
    assert [failure["rule"] for failure in report.failures] == [rule] and report.accepted == []


def test_twins_are_both_rejected_and_some_columns_can_be_checked_alone():
    report = check_rows([GOOD, GOOD, {**GOOD, "clip_id": "b"}], CLIPS)
    assert report.accepted == [2] and {failure["rule"] for failure in report.failures} == {"clip_id-unique"}
    assert check_rows([{**GOOD, "sharpness": 0.0}], CLIPS, {"brightness"}).accepted == [0]


def test_a_batch_fails_above_the_contracts_share_and_when_nothing_is_left():
    bad = {**GOOD, "num_frames": 1}
    named = [{**row, "clip_id": str(i)} for i, row in enumerate([GOOD, bad])]
    assert not check_rows(named, CLIPS).batch_fails  # a half may go
    assert check_rows([*named, {**bad, "clip_id": "x"}], CLIPS).batch_fails
    assert check_rows([], CLIPS).batch_fails


def test_paths_of_rows_and_what_is_not_there(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, {**GOOD, "clip_id": "b", "cut_score": 0.9}]))
    told = check_path(tmp_path / "rows.json", "clips").as_dict()
    assert (told["rows"], told["accepted"], told["quarantined"]) == (2, 1, 1)
    assert told["failures"] == [{"row": "b", "rule": "one-shot", "value": 0.9, "threshold": "-inf to 0.8"}]
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no")
    for path, contract, words in (
        (tmp_path / "none", "clips", "no such file"),
        (tmp_path / "rows.json", "clip", "one of captions, clips, features"),
        (tmp_path / "rows.parquet", "clips", "a Parquet file"),
    ):
        with pytest.raises(InputError, match=words):
            check_path(path, contract)


def test_every_contract_is_odcs_and_states_its_share():
    for name in ("clips", "captions", "features"):
        contract = load_contract(name)
        assert contract.rules and 0 <= contract.max_rejected_share < 1 and contract.version.count(".") == 2
