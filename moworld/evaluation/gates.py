"""Gates: what a candidate must reach, and by how much it may fall behind the champion. Pure: numbers in, a verdict out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from moworld.evaluation.metrics import METRICS
from moworld.settings import Settings


class Gate(Settings):
    """Conditions on one metric; every one that is set must hold. A metric that was not measured fails.

    Example: {metric: student_next_chunk_psnr, at_least: 14.0, above: last_frame_psnr, champion_margin: 0.5}
    """

    metric: str = Field(description="a name of moworld/evaluation/metrics.py")
    at_least: float | None = Field(default=None, description="smallest value that passes")
    at_most: float | None = Field(default=None, description="largest value that passes")
    above: str | None = Field(default=None, description="another metric of the candidate (a baseline) that the value must be above")
    champion_margin: float | None = Field(default=None, ge=0, description="how much worse than the champion's value still passes")

    @model_validator(mode="after")
    def _sensible(self) -> "Gate":
        for name in (self.metric, *([self.above] if self.above else [])):
            if name not in METRICS:
                raise ValueError(f"{name!r} is no metric; known: {', '.join(METRICS)}")
        if self.at_least is None and self.at_most is None and self.above is None and self.champion_margin is None:
            raise ValueError(f"the gate on {self.metric} has no condition; give at_least, at_most, above or champion_margin")
        return self


def verdict(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Hold a candidate's metrics against the gates.

    candidate: the values of metrics.json; champion: those of the champion, None when there is none (its conditions then do not apply)
    returns:   a row for each condition: gate (in words), metric, value, threshold, margin (how far inside; negative = failed by), passed.
               A value at the threshold passes. What was not measured is None, and fails.
    """
    rows = []
    for gate in gates:
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
    return rows


def _row(metric: str, words: str, value: float | None, threshold: float | None, *, higher: bool, strict: bool = False) -> dict[str, Any]:
    margin = None if value is None or threshold is None else (value - threshold if higher else threshold - value)
    if margin is not None and math.isnan(margin):  # both infinite: equal
        margin = 0.0
    passed = margin is not None and (margin > 0 if strict else margin >= 0)
    return {"gate": f"{metric} {words}", "metric": metric, "value": value, "threshold": threshold, "margin": margin, "passed": passed}


def _number(value: Any) -> float | None:
    """A measured number, or None for one that is missing or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)
