"""Release gates: bounds on a candidate's metrics, margins to the champion, and conditions on its origin. Pure functions of evidence."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from moworld.evaluation.metrics import METRICS
from moworld.settings import NonNegativeFloat, Settings

BUSY = 0.25  # cpu_of_others above which speed is not judged
FACTS = {
    "signature": "'holds', or the disagreement of model, evidence and registry",
    "contract": "'passed' if every clip behind the model passed the data contracts, else 'unknown'",
    "licences": "licences of the clips and base weights behind the model, comma separated; 'not stated' for a source without one",
}

Bound = Annotated[float, Field(ge=-1e24, le=1e24)]


class Gate(Settings):
    """Conditions on one metric or one fact of the model's origin; all conditions that are set must hold. A missing value fails.

    Example: {metric: student_next_chunk_psnr, at_least: 14.0, above: last_frame_psnr, champion_margin: 0.5}
             {fact: licences, among: [BSD-3-Clause, CC-BY-4.0]}
    """

    metric: str = Field(default="", description="a name of moworld/evaluation/metrics.py")
    fact: str = Field(default="", description="signature, contract or licences, instead of a metric")
    among: list[str] = Field(default=[], description="allowed values of a fact; if it has several values, all must be allowed")
    at_least: Bound | None = Field(default=None, description="smallest value that passes")
    at_most: Bound | None = Field(default=None, description="largest value that passes")
    above: str | None = Field(default=None, description="another metric of the candidate (a baseline) that the value must be above")
    champion_margin: NonNegativeFloat | None = Field(default=None, description="largest passing difference to a better champion")

    @model_validator(mode="after")
    def _check(self) -> "Gate":
        numbers = [self.at_least, self.at_most, self.above, self.champion_margin]
        if bool(self.metric) == bool(self.fact):
            raise ValueError("a gate has either a metric or a fact; set one of them")
        if self.fact:
            if self.fact not in FACTS:
                raise ValueError(f"{self.fact!r} is not a fact; known: {', '.join(FACTS)}")
            if not self.among or any(value is not None for value in numbers):
                raise ValueError(f"the gate on {self.fact} takes only `among`, a list of allowed values")
            return self
        for name in (self.metric, *([self.above] if self.above else [])):
            if name not in METRICS:
                raise ValueError(f"{name!r} is not a metric; known: {', '.join(METRICS)}")
        if all(value is None for value in numbers) or self.among:
            raise ValueError(f"the gate on {self.metric} needs at_least, at_most, above or champion_margin, and no `among`")
        return self


def verdict(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, gates: Sequence[Gate], facts: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Compares a candidate's metrics, and the facts of its origin, with the gates.

    candidate: the values of metrics.json; champion: those of the champion; None omits the conditions on it
    facts:     values of FACTS
    returns:   a row for each condition: gate (in words), metric, value, threshold, margin (negative: failed by), passed.
               A value at the threshold passes. A missing value is None and fails. `passed` is None, which is "not judged", for a speed
               that was measured while other processes used more than BUSY of the CPUs.
    """
    rows: list[dict[str, Any]] = []
    others = _number(candidate.get("cpu_of_others")) or 0.0
    for gate in gates:
        first = len(rows)
        if gate.fact:
            rows.append(_fact_row(gate, facts.get(gate.fact, "")))
            continue
        value = _number(candidate.get(gate.metric))
        if gate.at_least is not None:
            rows.append(_row(gate.metric, f"at least {gate.at_least:g}", value, gate.at_least, higher=True))
        if gate.at_most is not None:
            rows.append(_row(gate.metric, f"at most {gate.at_most:g}", value, gate.at_most, higher=False))
        if gate.above is not None:
            rows.append(_row(gate.metric, f"above {gate.above}", value, _number(candidate.get(gate.above)), higher=True, strict=True))
        if gate.champion_margin is not None and champion is not None and _number(champion.get(gate.metric)) is not None:
            higher = METRICS[gate.metric].higher_is_better
            threshold = float(champion[gate.metric]) + gate.champion_margin * (-1 if higher else 1)
            rows.append(_row(gate.metric, f"within {gate.champion_margin:g} of the champion", value, threshold, higher=higher))
        if METRICS[gate.metric].timed and others > BUSY and value is not None:
            rows[first:] = [row | {"passed": None} for row in rows[first:]]
    return rows


def result_of(row: Mapping[str, Any]) -> str:
    """Returns the result of a row of a verdict in words."""
    return {True: "passed", False: "failed", None: "not judged"}[row["passed"]]


def failures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the failed rows of a verdict in one line: gate, found, expected and difference; "" if none failed."""
    return "; ".join(
        f"gate {row['gate']}: found {_short(row['value'])}, expected {_short(row['threshold'])}"
        + (f" (short by {-row['margin']:.4g})" if row["margin"] is not None else "")
        for row in rows
        if row["passed"] is False
    )


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _row(metric: str, words: str, value: float | None, threshold: float | None, *, higher: bool, strict: bool = False) -> dict[str, Any]:
    margin = None if value is None or threshold is None else (value - threshold if higher else threshold - value)
    if margin is not None and math.isnan(margin):  # both infinite: equal
        margin = 0.0
    passed = margin is not None and (margin > 0 if strict else margin >= 0)
    return {"gate": f"{metric} {words}", "metric": metric, "value": value, "threshold": threshold, "margin": margin, "passed": passed}


def _fact_row(gate: Gate, value: str) -> dict[str, Any]:
    values = [part.strip() for part in value.split(",")] if gate.fact == "licences" else [value]
    allowed = ", ".join(gate.among)
    words = f"{gate.fact} among {allowed}"
    passed = bool(value) and all(one in gate.among for one in values)
    return {"gate": words, "metric": gate.fact, "value": value or None, "threshold": allowed, "margin": None, "passed": passed}


def _number(value: Any) -> float | None:
    """Returns a measured number, or None if it is missing or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)
