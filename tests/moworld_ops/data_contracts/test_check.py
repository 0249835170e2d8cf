"""Contracts: no row is lost, the YAML decides alone, and Great Expectations and pydantic agree."""

import json
import math
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from moworld.data.clips import Clip
from moworld.errors import InputError
from moworld_ops.data_contracts.check import check_path, check_rows, check_table
from moworld_ops.data_contracts.expectations import validate
from moworld_ops.data_contracts.load import Contract, Rule, contract_names, load_contract, parse_contract

GEOMETRY = load_contract("geometry")
GOOD = {
    "clips": {
        "clip_id": "a", "source": "video", "scene": "a", "split": "train", "num_frames": 97, "fps": 24.0, "height": 240, "width": 320,
        "video": "videos/a.mp4", "video_sha256": "0",
    },
    "geometry": {
        "clip_id": "a", "camera": "cameras/a.txt", "camera_sha256": "0", "camera_origin": "file", "translation_scale": 1.0,
        "epipolar_error_px": 0.4, "max_rotation_step_degrees": 3.0, "max_translation_step": 2.0, "registered_share": None,
    },
    "quality": {
        "clip_id": "a", "brightness": 90.0, "contrast": 30.0, "sharpness": 100.0, "motion": 4.0, "frozen_share": 0.0, "cut_score": 0.1,
        "flicker": 0.1, "text_share": 0.0, "aspect": 1.33, "similarity": 0.0,
    },
    "captions": {"clip_id": "a", "caption": "A dim hall.", "caption_source": "engine", "caption_words": 3, "camera_phrases": 0},
    "features": {"clip_id": "a", "split": "train", "shard": "s", "num_frames": 97},
}  # fmt: skip
value = st.one_of(st.none(), st.floats(), st.integers(-10, 400), st.text(max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD["geometry"], "jitter_degrees"], value)), max_size=8))
def test_no_row_is_lost_and_each_rejected_one_has_a_reason(rows):
    report = check_rows(rows, GEOMETRY)
    assert len(report.accepted) + report.quarantined == report.rows == len(rows)
    named = {failure["row"] for failure in report.failures}
    for index, row in enumerate(rows):
        if index not in report.accepted:
            name = row.get("clip_id")
            assert (index if name is None else name) in named or any(n != n for n in named if isinstance(n, float))
    for failure in report.failures:
        assert failure["rule"] in {rule.name for rule in GEOMETRY.rules} and failure["threshold"]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(-5, 5)), st.integers(0, 4)), min_size=1, max_size=6))
def test_great_expectations_gives_the_same_result(pairs):
    rules = (
        Rule("a-required", "a", "required"), Rule("low", "a", "range", minimum=-1.0), Rule("both", "a", "range", -3.0, 2.0),
        Rule("b-unique", "b", "unique"),
    )  # fmt: skip
    contract = Contract("made", "1.0.0", rules, 0.5)
    rows = [{"a": math.nan if a is None else a, "b": b} for a, b in pairs]
    broken = {failure["rule"] for failure in check_rows(rows, contract).failures}
    results = validate(rows, contract)["expectations"]
    assert {rule.name for rule, result in zip(rules, results, strict=True) if not result["success"]} == broken


PYTHON: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


@cache
def row_model(name: str) -> type[BaseModel]:
    """Returns a pydantic model with the contract's types, bounds, values and required columns: an independent implementation of the check."""
    contract, columns = load_contract(name), {}
    for column in contract.columns:
        bounds = [rule for rule in contract.rules if rule.column == column.name and rule.kind == "range"]
        limits = {key: bound for rule in bounds for key, bound in (("ge", rule.minimum), ("le", rule.maximum)) if bound is not None}
        lengths = [rule for rule in contract.rules if rule.column == column.name and rule.kind == "length"]
        limits |= {key: end for rule in lengths for key, end in (("min_length", rule.minimum), ("max_length", rule.maximum)) if end is not None}
        values = next((rule.values for rule in contract.rules if rule.column == column.name and rule.kind == "values"), None)
        kind: Any = Literal[values] if values else PYTHON[column.logical_type]
        columns[column.name] = (kind if column.required else kind | None, Field(... if column.required else None, **limits))
    return create_model(name, __config__=ConfigDict(extra="ignore", strict=True), **columns)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_pydantic_accepts_the_rows_that_the_check_accepts(name, data):
    row = {**GOOD[name], **data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD[name], value)))}
    accepted = bool(check_rows([row], load_contract(name)).accepted)
    try:
        row_model(name).model_validate({key: None if item != item else item for key, item in row.items()})
        valid = True
    except ValidationError:
        valid = False
    assert valid == accepted


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=2)), st.one_of(st.none(), st.floats(-3, 30))), min_size=1, max_size=12))
def test_a_table_and_a_list_of_rows_get_the_same_result(cells):
    rows = [{**GOOD["geometry"], "clip_id": name, "max_rotation_step_degrees": turn} for name, turn in cells]
    schema = pyarrow.schema([(key, pyarrow.float64() if isinstance(item, float) or item is None else pyarrow.string())
                             for key, item in GOOD["geometry"].items()])  # fmt: skip
    assert check_table(pyarrow.Table.from_pylist(rows, schema=schema), GEOMETRY) == check_rows(rows, GEOMETRY)


@pytest.mark.parametrize(
    ("contract", "change", "rule"),
    [
        ("clips", {"num_frames": 12}, "long-enough"),
        ("clips", {"fps": 0.2}, "plays-at-a-sane-rate"),
        ("clips", {"height": 16}, "high-enough"),
        ("clips", {"width": 16}, "wide-enough"),
        ("clips", {"num_frames": "many"}, "num_frames-type"),
        ("clips", {"split": "trian"}, "split-enum"),
        ("clips", {"source": "film"}, "source-enum"),
        ("clips", {"clip_id": ""}, "clip_id-length"),
        ("clips", {"scene": ""}, "scene-length"),
        ("geometry", {"camera_origin": "sfn"}, "camera_origin-enum"),
        ("clips", {"video": ""}, "video-length"),
        ("geometry", {"camera": None}, "camera-required"),
        ("geometry", {"epipolar_error_px": 1.6}, "cameras-agree-with-pictures"),
        ("geometry", {"epipolar_error_px": math.nan}, "epipolar_error_px-required"),
        ("geometry", {"max_rotation_step_degrees": 25.9}, "no-jump-in-rotation"),
        ("geometry", {"max_translation_step": 13.0}, "no-jump-in-translation"),
        ("geometry", {"registered_share": 0.5}, "enough-frames-registered"),
        ("geometry", {"reprojection_error_px": 2.5}, "points-fit-pictures"),
        ("geometry", {"track_length": 2.0}, "points-are-seen-often"),
        ("geometry", {"jitter_degrees": 4.0}, "a-steady-camera"),
        ("geometry", {"lens_error": 0.02}, "lens-is-determined"),
        ("geometry", {"followed_share": 0.7}, "corners-go-where-cameras-say"),
        ("geometry", {"followed_share_lowest": 0.4}, "no-frames-whose-corners-go-elsewhere"),
        ("geometry", {"loop_error_px": 9.0}, "loops-close"),
        ("quality", {"brightness": 5.0}, "neither-dark-nor-burnt"),
        ("quality", {"contrast": 1.0}, "something-to-see"),
        ("quality", {"sharpness": 1.0}, "not-blurred"),
        ("quality", {"frozen_share": 0.9}, "not-frozen"),
        ("quality", {"cut_score": 0.95}, "one-shot"),
        ("quality", {"flicker": 12.0}, "steady-light"),
        ("quality", {"text_share": 0.2}, "no-text-overlay"),
        ("quality", {"aspect": 3.0}, "neither-tower-nor-ribbon"),
        ("quality", {"similarity": 0.99}, "no-near-duplicate"),
        ("quality", {"brightness": "bright"}, "brightness-type"),
        ("captions", {"camera_phrases": 1}, "says-nothing-of-the-camera"),
        ("captions", {"caption_words": 1}, "long-enough-to-say-something"),
        ("captions", {"caption": None}, "caption-required"),
        ("captions", {"caption": ""}, "caption-length"),
        ("features", {"split": "test"}, "split-enum"),
        ("features", {"num_frames": 5}, "a-window-at-least"),
    ],
)
def test_each_rule_rejects_what_it_names(contract, change, rule):
    assert check_rows([GOOD[contract]], load_contract(contract)).accepted == [0]
    report = check_rows([{**GOOD[contract], **change}], load_contract(contract))
    assert [failure["rule"] for failure in report.failures] == [rule] and report.accepted == []


def test_twins_are_both_rejected():
    good = GOOD["quality"]
    report = check_rows([good, good, {**good, "clip_id": "b"}], load_contract("quality"))
    assert report.accepted == [2] and {failure["rule"] for failure in report.failures} == {"clip_id-unique"}


def test_a_batch_fails_above_the_contracts_share_and_when_nothing_is_left():
    good, clips = GOOD["clips"], load_contract("clips")
    bad = {**good, "num_frames": 1}
    named = [{**row, "clip_id": str(i)} for i, row in enumerate([good, bad])]
    assert not check_rows(named, clips).batch_fails([1, 1])  # a half may go
    more = check_rows([*named, {**bad, "clip_id": "x"}], clips)
    assert more.batch_fails([1, 1, 1]) and more.lost([1, 1, 1]) == 2
    assert not more.batch_fails([3]) and not more.batch_fails([2, 1]) and more.lost([2, 1]) == 1  # rows that are parts of a clip
    assert check_rows([], clips).batch_fails([])


def test_paths_of_rows_and_what_is_not_there(tmp_path):
    good = GOOD["quality"]
    (tmp_path / "rows.json").write_text(json.dumps([good, {**good, "clip_id": "b", "cut_score": 0.9}]))
    report = check_path(tmp_path / "rows.json", load_contract("quality")).as_dict()
    assert (report["rows"], report["accepted"], report["quarantined"]) == (2, 1, 1)
    assert report["failures"] == [{"row": "b", "rule": "one-shot", "value": 0.9, "threshold": "-inf to 0.8"}]
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "one.json").write_text(json.dumps(good))
    for path, contract, words in (
        (tmp_path / "none", "clips", "no such file"),
        (tmp_path / "rows.json", "clip", "one of captions, clips, features, geometry, quality"),
        (tmp_path / "rows.parquet", "clips", "a Parquet file"),
        (tmp_path / "one.json", "clips", "a list of objects"),
    ):
        with pytest.raises(InputError, match=words):
            check_path(path, load_contract(contract))


def test_the_contracts_name_every_column_of_a_clip_once_and_no_other():
    own = {
        name: {column.name for column in load_contract(name).columns} - {"clip_id"} for name in ("clips", "geometry", "quality", "captions")
    }
    named = [column for columns in own.values() for column in columns]
    assert sorted(named) == sorted(set(Clip.__dataclass_fields__) - {"clip_id"})
    assert contract_names() == sorted(GOOD)


TEXT = """apiVersion: v3.1.0
kind: DataContract
id: made
name: made
version: 1.2.3
status: active
customProperties:
  - {property: maxRejectedShare, value: 0.5}
schema:
  - name: made
    properties:
      - name: a
        logicalType: number
        quality: [{id: low, type: library, metric: invalidValues, mustBe: 0, arguments: {minimum: 2}}]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("logicalType: number", "logicalType: figure", "figure"),
        ("logicalType: number", "logicalType: string", "a.quality.low.arguments: found 'minimum'"),
        ("quality:", "qualty:", "qualty: found an unknown key"),
        ("minimum: 2", "minimun: 2", "minimun"),
        ("version: 1.2.3", "version: '1.2'", "MAJOR.MINOR.PATCH"),
        ("value: 0.5", "value: 2", "maxRejectedShare: found 2"),
        ("kind: DataContract", "kind: [", "ODCS v3.1.0"),
        ("mustBe: 0", "mustBe: three", "a number that counts rows"),
    ],
)
def test_an_error_in_a_contract_is_named(old, new, words):
    assert parse_contract(TEXT, "made.yaml").rules[-1] == Rule("low", "a", "range", 2, None)
    with pytest.raises(InputError, match=r"^made\.yaml") as caught:
        parse_contract(TEXT.replace(old, new), "made.yaml")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_hundred_thousand_rows_are_checked_by_columns(tmp_path):
    """At a tenth of the size that `moworld bench contract` measures; the share rejected is known."""
    count, generator = 100_000, np.random.default_rng(0)
    turns = generator.uniform(0, 15.01, count)
    columns = {key: [item] * count for key, item in GOOD["geometry"].items() if item is not None}
    table = pyarrow.table({**columns, "clip_id": [f"clip-{i}" for i in range(count)], "max_rotation_step_degrees": turns})
    parquet.write_table(table, tmp_path / "manifest.parquet")
    report = check_path(tmp_path, load_contract("geometry"))
    assert report.quarantined == int((turns > 15).sum()) > 0
