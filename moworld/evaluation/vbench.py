"""VBench-I2V's eight scores and their aggregates (paper 6.1), by the paper's formulas and by VBench's official ones.

An aggregate exists if all its scores exist; missing scores are never estimated.
"""

from collections.abc import Mapping

from moworld.errors import InputError

# Short name of the paper's tables -> name in VBench's result files.
DIMENSIONS = {
    "SC": "subject_consistency",
    "BC": "background_consistency",
    "MS": "motion_smoothness",
    "DD": "dynamic_degree",
    "AQ": "aesthetic_quality",
    "IQ": "imaging_quality",
    "I2V-S": "i2v_subject",
    "I2V-B": "i2v_background",
}
QUALITY = ("SC", "BC", "MS", "DD", "AQ", "IQ")
FIRST_FRAME = ("I2V-S", "I2V-B")
WEIGHTS = {"DD": 0.5}  # all others: 1
# Ranges in percent that the official score normalises to 0 to 100; other dimensions are not normalised.
OFFICIAL_RANGES = {"SC": (14.62, 100.0), "BC": (26.15, 100.0), "MS": (70.6, 99.75), "I2V-S": (14.62, 100.0), "I2V-B": (26.15, 100.0)}
# Aggregate -> its scores.
NEEDS = {
    "quality": QUALITY,
    "average": tuple(DIMENSIONS),
    "official_quality": QUALITY,
    "official_i2v": FIRST_FRAME,
    "official": tuple(DIMENSIONS),
}


def vbench_aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the aggregates of the eight raw scores, in percent.

    scores:  SC, BC, MS, DD, AQ, IQ, I2V-S, I2V-B (or VBench's own names), raw, in percent
    returns: quality = (SC + BC + MS + 0.5 DD + AQ + IQ) / 5.5 and average = mean of the eight, from raw scores, as in the paper's tables;
             official_quality, official_i2v and official = their mean, from scores normalised to VBench's ranges. The official
             image-to-video score also includes camera motion (weight 0.1), which the paper does not report; it is omitted.
    Raises InputError for a score that is missing, unknown or not in 0 to 100.
    """
    raw = by_short_name(scores)
    for name in DIMENSIONS:
        if name not in raw:
            raise InputError("VBench scores", name, "no score", "all eight scores", "an aggregate of fewer would not be comparable")
    return available_aggregates(raw)


def available_aggregates(raw: Mapping[str, float]) -> dict[str, float]:
    """Returns the aggregates whose scores all exist; raw: short name -> percent, any of the eight."""
    normalised = {name: _normalised(name, value) for name, value in raw.items()}
    formulas = {
        "quality": lambda: weighted_mean(raw, QUALITY),
        "average": lambda: sum(raw[name] for name in DIMENSIONS) / len(DIMENSIONS),
        "official_quality": lambda: weighted_mean(normalised, QUALITY),
        "official_i2v": lambda: weighted_mean(normalised, FIRST_FRAME),
        "official": lambda: (weighted_mean(normalised, QUALITY) + weighted_mean(normalised, FIRST_FRAME)) / 2,
    }
    return {name: formulas[name]() for name, needs in NEEDS.items() if all(need in raw for need in needs)}


def weighted_mean(scores: Mapping[str, float], names: tuple[str, ...]) -> float:
    """Returns the mean of the named scores, with half weight for dynamic degree."""
    return sum(scores[name] * WEIGHTS.get(name, 1.0) for name in names) / sum(WEIGHTS.get(name, 1.0) for name in names)


def by_short_name(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns scores by short name, from short or VBench's names; raises InputError for an unknown name or a value that is not a percentage."""
    short = {**{name: name for name in DIMENSIONS}, **{long: name for name, long in DIMENSIONS.items()}}
    for name, value in scores.items():
        if name not in short:
            raise InputError("VBench scores", name, "an unknown name", f"one of {', '.join(DIMENSIONS)}", "rename or drop it")
        if not 0.0 <= value <= 100.0:
            raise InputError("VBench scores", name, value, "a raw score in percent, 0 to 100", "give raw scores, not normalised ones")
    return {short[name]: float(value) for name, value in scores.items()}


def _normalised(name: str, value: float) -> float:
    low, high = OFFICIAL_RANGES.get(name, (0.0, 100.0))
    return 100.0 * (value - low) / (high - low)
