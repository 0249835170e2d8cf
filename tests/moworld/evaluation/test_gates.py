"""Gates pass at the edge and fail beyond it."""

import pytest
from pydantic import ValidationError

from moworld.evaluation.gates import Gate, failures, verdict


def passed(candidate, champion, **gate):
    rows = verdict(candidate, champion, [Gate(**gate)], {})
    return [row["passed"] for row in rows]


@pytest.mark.parametrize(("value", "answer"), [(14.0, True), (13.999999, False), (float("inf"), True), (float("nan"), False)])
def test_at_least_passes_at_the_edge(value, answer):
    assert passed({"teacher_next_chunk_psnr": value}, None, metric="teacher_next_chunk_psnr", at_least=14.0) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(0.25, True), (0.2500001, False), (-1.0, True)])
def test_at_most_passes_at_the_edge(value, answer):
    assert passed({"int8_psnr_drop": value}, None, metric="int8_psnr_drop", at_most=0.25) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(15.1, True), (15.0, False), (14.9, False)])
def test_above_a_baseline_means_above_it(value, answer):
    measured = {"student_next_chunk_psnr": value, "last_frame_psnr": 15.0}
    assert passed(measured, None, metric="student_next_chunk_psnr", above="last_frame_psnr") == [answer]


@pytest.mark.parametrize(("value", "answer"), [(19.5, True), (19.4, False), (25.0, True)])
def test_falling_behind_the_champion_by_the_margin_still_passes_where_higher_is_better(value, answer):
    gate = {"metric": "student_next_chunk_psnr", "champion_margin": 0.5}
    assert passed({"student_next_chunk_psnr": value}, {"student_next_chunk_psnr": 20.0}, **gate) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(0.125, True), (0.13, False), (0.01, True)])
def test_the_margin_turns_where_lower_is_better(value, answer):
    gate = {"metric": "chunk_interval_seconds", "champion_margin": 0.025}
    assert passed({"chunk_interval_seconds": value}, {"chunk_interval_seconds": 0.1}, **gate) == [answer]


def test_a_first_candidate_has_no_champion_to_beat_and_its_other_gates_stand():
    gate = {"metric": "drift", "at_most": 3.0, "champion_margin": 0.1}
    assert passed({"drift": 2.0}, None, **gate) == [True]
    assert passed({"drift": 2.0}, {"drift": 1.0}, **gate) == [True, False]


@pytest.mark.parametrize("value", [{}, {"drift": None}, {"drift": "good"}, {"drift": True}])
def test_what_was_not_measured_fails(value):
    (row,) = verdict(value, None, [Gate(metric="drift", at_most=3.0)], {})
    assert (row["passed"], row["value"], row["margin"]) == (False, None, None)


def test_a_missing_baseline_fails():
    assert passed({"student_next_chunk_psnr": 20.0}, None, metric="student_next_chunk_psnr", above="last_frame_psnr") == [False]


def test_the_margin_says_by_how_much():
    (row,) = verdict({"drift": 2.5}, None, [Gate(metric="drift", at_most=2.0)], {})
    assert row["margin"] == -0.5 and row["gate"] == "drift at most 2"


def test_no_gates_give_no_rows():
    assert verdict({"drift": 1.0}, None, [], {}) == []


@pytest.mark.parametrize("gate", [{"metric": "dirft", "at_most": 1}, {"metric": "drift"}, {"metric": "drift", "above": "nothing"}])
def test_a_gate_that_could_never_mean_anything_is_refused(gate):
    with pytest.raises(ValidationError):
        Gate(**gate)


@pytest.mark.parametrize(
    ("fact", "value", "among", "answer"),
    [
        ("signature", "holds", ["holds"], True),
        ("signature", "a model that is not what was signed, truly", ["holds"], False),
        ("contract", "unknown", ["passed"], False),
        ("licences", "BSD-3-Clause", ["CC0-1.0", "BSD-3-Clause"], True),
        ("licences", "BSD-3-Clause, not stated", ["BSD-3-Clause"], False),
        ("licences", "BSD-3-Clause, CC0-1.0", ["CC0-1.0", "BSD-3-Clause"], True),
        ("licences", "", ["CC0-1.0"], False),
    ],
)
def test_facts_of_the_origin_must_be_among_what_is_allowed(fact, value, among, answer):
    (row,) = verdict({}, None, [Gate(fact=fact, among=among)], {fact: value})
    assert row["passed"] is answer and row["value"] == (value or None) and row["threshold"] == ", ".join(among)
    (missing,) = verdict({}, None, [Gate(fact=fact, among=among)], {})
    assert missing["passed"] is False


@pytest.mark.parametrize(
    "gate",
    [
        {"fact": "colour", "among": ["red"]},
        {"fact": "signature"},
        {"fact": "signature", "among": ["holds"], "at_least": 1},
        {"fact": "signature", "metric": "drift", "among": ["holds"]},
        {"metric": "drift", "at_most": 1, "among": ["x"]},
        {},
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(gate):
    with pytest.raises(ValidationError):
        Gate(**gate)


def test_failures_are_one_line_with_what_was_found_wanted_and_missing():
    gates = [Gate(metric="drift", at_most=2.0), Gate(metric="frames_per_second", at_least=16), Gate(fact="contract", among=["passed"])]
    assert failures(verdict({"drift": 1.0, "frames_per_second": 20.0}, None, gates, {"contract": "passed"})) == ""
    words = failures(verdict({"drift": 2.53125}, None, gates, {"contract": "unknown"}))
    assert words == (
        "gate drift at most 2: found 2.5312, wanted 2 (short by 0.5312); gate frames_per_second at least 16: found None, wanted 16; "
        "gate contract among passed: found unknown, wanted passed"
    )
