"""Rules on the gates themselves: what the gates of a model line must contain, and when other gates are weaker. Pure functions."""

from collections.abc import Iterator, Sequence
from typing import Any

from moworld.evaluation.gates import Gate
from moworld.evaluation.metrics import METRICS, Metric

UNGUARDED = ("test",)  # profiles whose models nobody serves
Bound = tuple[str, float | frozenset[str]]  # how a condition compares, and with what


def incomplete(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Returns a failed row (as `gates.verdict` does) for each gate that the first promotion of a model line requires and that is missing.

    Required are the signature, the data contract, and one bound on a metric of held-out clips that is better than `Metric.trivial`.
    """
    rows = []
    for fact, value in (("signature", "holds"), ("contract", "passed")):
        if not any(gate.fact == fact and gate.among == [value] for gate in gates):
            rows.append(_row(f"{{fact: {fact}, among: [{value}]}} among the gates", "missing", "present"))
    if not any(_bounds_quality(gate) for gate in gates):
        known = ", ".join(f"{name} {'above' if one.higher_is_better else 'below'} {one.trivial:g}" for name, one in _judging()[:3])
        rows.append(_row("a metric of held-out clips among the gates", "missing", f"a bound that a model is needed for: {known}, ..."))
    return rows


def weakened(recorded: Sequence[Gate], given: Sequence[Gate]) -> list[dict[str, Any]]:
    """Returns a failed row for each condition of the recorded gates that the given gates omit, or have with a weaker bound."""
    rows: list[dict[str, Any]] = []
    found: dict[str, Bound] = {}
    for name, bound in _conditions(given):
        found[name] = _stricter(found[name], bound) if name in found else bound
    for name, bound in _conditions(recorded):
        if name not in found:
            rows.append(_row(f"{name}, as recorded", "missing", _words(bound)))
        elif _stricter(found[name], bound) != found[name]:
            rows.append(_row(f"{name}, as recorded", _words(found[name]), _words(bound)))
    return rows


def _bounds_quality(gate: Gate) -> bool:
    """Returns True if the gate refuses what needs no model: its bound is better than `Metric.trivial`, or is one of its baselines."""
    metric = METRICS.get(gate.metric)
    if metric is None or metric.trivial is None:
        return False
    if metric.higher_is_better:
        return gate.above in metric.baselines or (gate.at_least is not None and gate.at_least > metric.trivial)
    return gate.at_most is not None and gate.at_most < metric.trivial


def _judging() -> list[tuple[str, Metric]]:
    return [(name, metric) for name, metric in METRICS.items() if metric.trivial is not None]


def _conditions(gates: Sequence[Gate]) -> Iterator[tuple[str, Bound]]:
    """Yields the name of each condition with its bound."""
    for gate in gates:
        if gate.fact:
            yield f"{gate.fact} among", ("subset", frozenset(gate.among))
            continue
        if gate.at_least is not None:
            yield f"{gate.metric} at least", ("higher", gate.at_least)
        if gate.at_most is not None:
            yield f"{gate.metric} at most", ("lower", gate.at_most)
        if gate.above is not None:
            yield f"{gate.metric} above {gate.above}", ("lower", 0.0)
        if gate.champion_margin is not None:
            yield f"{gate.metric} within a margin of the champion", ("lower", gate.champion_margin)


def _stricter(first: Bound, second: Bound) -> Bound:
    """Returns the first of two bounds of one condition if it implies the second, else the second, or what both imply for sets."""
    kind, one, other = first[0], first[1], second[1]
    if isinstance(one, frozenset) and isinstance(other, frozenset):
        return (kind, one & other)
    if isinstance(one, frozenset) or isinstance(other, frozenset):
        return second
    return (kind, max(one, other) if kind == "higher" else min(one, other))


def _words(bound: Bound) -> str:
    return ", ".join(sorted(bound[1])) if isinstance(bound[1], frozenset) else f"{bound[1]:g}"


def _row(gate: str, value: str, threshold: str) -> dict[str, Any]:
    return {"gate": gate, "metric": "gates", "value": value, "threshold": threshold, "margin": None, "passed": False}
