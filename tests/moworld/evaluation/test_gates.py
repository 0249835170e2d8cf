"""Gates pass at the threshold and fail beyond it."""

import pytest
from pydantic import ValidationError

from moworld.evaluation.gates import Gate, failures, result_of, verdict


def passed(candidate, champion, **gate):
    rows = verdict(candidate, champion, [Gate(**gate)], {})
    return [row["passed"] for row in rows]


@pytest.mark.parametrize(("value", "answer"), [(14.0, True), (13.999999, False), (float("inf"), True), (float("nan"), False)])
def test_at_least_passes_at_the_threshold(value, answer):
    assert passed({"teacher_next_chunk_psnr": value}, None, metric="teacher_next_chunk_psnr", at_least=14.0) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(0.25, True), (0.2500001, False), (-1.0, True)])
def test_at_most_passes_at_the_threshold(value, answer):
    assert passed({"int8_psnr_drop": value}, None, metric="int8_psnr_drop", at_most=0.25) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(15.1, True), (15.0, False), (14.9, False)])
def test_above_requires_more_than_the_baseline(value, answer):
    measured = {"student_next_chunk_psnr": value, "last_frame_psnr": 15.0}
    assert passed(measured, None, metric="student_next_chunk_psnr", above="last_frame_psnr") == [answer]


@pytest.mark.parametrize(("value", "answer"), [(19.5, True), (19.4, False), (25.0, True)])
def test_a_value_within_the_margin_below_the_champion_passes(value, answer):
    gate = {"metric": "student_next_chunk_psnr", "champion_margin": 0.5}
    assert passed({"student_next_chunk_psnr": value}, {"student_next_chunk_psnr": 20.0}, **gate) == [answer]


@pytest.mark.parametrize(("value", "answer"), [(0.125, True), (0.13, False), (0.01, True)])
def test_a_value_within_the_margin_above_the_champion_passes_if_lower_is_better(value, answer):
    gate = {"metric": "chunk_interval_seconds", "champion_margin": 0.025}
    assert passed({"chunk_interval_seconds": value}, {"chunk_interval_seconds": 0.1}, **gate) == [answer]


def test_without_a_champion_only_its_conditions_are_omitted():
    gate = {"metric": "drift", "at_most": 3.0, "champion_margin": 0.1}
    assert passed({"drift": 2.0}, None, **gate) == [True]
    assert passed({"drift": 2.0}, {"drift": 1.0}, **gate) == [True, False]


@pytest.mark.parametrize("value", [{}, {"drift": None}, {"drift": "good"}, {"drift": True}])
def test_a_missing_value_fails(value):
    (row,) = verdict(value, None, [Gate(metric="drift", at_most=3.0)], {})
    assert (row["passed"], row["value"], row["margin"]) == (False, None, None)


def test_a_missing_baseline_fails():
    assert passed({"student_next_chunk_psnr": 20.0}, None, metric="student_next_chunk_psnr", above="last_frame_psnr") == [False]


@pytest.mark.parametrize("rate", [10.0, 100.0])
def test_speed_is_not_judged_on_a_busy_machine_and_all_else_is(rate):
    gates = [Gate(metric="frames_per_second", at_least=30, champion_margin=5), Gate(metric="drift", at_most=3.0)]
    busy, idle = ({"frames_per_second": rate, "drift": 1.0, "cpu_of_others": others} for others in (0.4, 0.1))
    champion = {"frames_per_second": 100.0}
    rows = verdict(busy, champion, gates, {})
    assert [row["passed"] for row in rows] == [None, None, True] and failures(rows) == ""
    assert [result_of(row) for row in rows] == ["not judged", "not judged", "passed"]
    assert [row["passed"] for row in verdict(idle, champion, gates, {})] == [rate > 30, rate > 95, True]
    (row,) = verdict({"cpu_of_others": 0.9}, None, gates[:1], {})
    assert row["passed"] is False, "a speed that was not measured"


def test_the_margin_is_the_distance_to_the_threshold():
    (row,) = verdict({"drift": 2.5}, None, [Gate(metric="drift", at_most=2.0)], {})
    assert row["margin"] == -0.5 and row["gate"] == "drift at most 2"


def test_no_gates_give_no_rows():
    assert verdict({"drift": 1.0}, None, [], {}) == []


@pytest.mark.parametrize("gate", [{"metric": "dirft", "at_most": 1}, {"metric": "drift"}, {"metric": "drift", "above": "nothing"}])
def test_a_gate_with_unknown_or_missing_conditions_is_refused(gate):
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
def test_facts_must_be_among_the_allowed_values(fact, value, among, answer):
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
def test_contradictory_gates_are_refused(gate):
    with pytest.raises(ValidationError):
        Gate(**gate)


def test_failures_are_one_line_with_found_expected_and_difference():
    gates = [Gate(metric="drift", at_most=2.0), Gate(metric="frames_per_second", at_least=16), Gate(fact="contract", among=["passed"])]
    assert failures(verdict({"drift": 1.0, "frames_per_second": 20.0}, None, gates, {"contract": "passed"})) == ""
    words = failures(verdict({"drift": 2.53125}, None, gates, {"contract": "unknown"}))
    assert words == (
        "gate drift at most 2: found 2.5312, expected 2 (short by 0.5312); gate frames_per_second at least 16: found None, expected 16; "
        "gate contract among passed: found unknown, expected passed"
    )
