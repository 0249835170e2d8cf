"""VBench-I2V's eight scores and their aggregates (paper 6.1), as the paper has them and as VBench's official table has them.

An aggregate exists when every score that it needs is there; none is estimated from the rest.
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
WEIGHTS = {"DD": 0.5}  # all others weigh 1
# The range, in percent, that the official score stretches to 0 to 100; dimensions not named keep theirs.
OFFICIAL_RANGES = {"SC": (14.62, 100.0), "BC": (26.15, 100.0), "MS": (70.6, 99.75), "I2V-S": (14.62, 100.0), "I2V-B": (26.15, 100.0)}
# Aggregate -> the scores it is made of.
NEEDS = {
    "quality": QUALITY,
    "average": tuple(DIMENSIONS),
    "official_quality": QUALITY,
    "official_i2v": FIRST_FRAME,
    "official": tuple(DIMENSIONS),
}


def vbench_aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """Aggregates of the eight raw scores, in percent.

    scores:  SC, BC, MS, DD, AQ, IQ, I2V-S, I2V-B (or VBench's own names), raw, in percent
    returns: quality = (SC + BC + MS + 0.5 DD + AQ + IQ) / 5.5 and average = mean of the eight, as the paper's tables have them, from raw
             scores; official_quality, official_i2v and official = their mean, from scores stretched to VBench's ranges first. The official
             image-to-video score also weighs text-to-camera motion (0.1), which the paper does not report: it is left out of both.
    Raises InputError for a score that is missing, unknown or not in 0 to 100.
    """
    raw = by_short_name(scores)
    for name in DIMENSIONS:
        if name not in raw:
            raise InputError("VBench scores", name, "no score", "all eight scores", "an aggregate of fewer would not be comparable")
    return available_aggregates(raw)


def available_aggregates(raw: Mapping[str, float]) -> dict[str, float]:
    """Those of the aggregates whose scores are all there; raw: short name -> percent, any of the eight."""
    stretched = {name: _stretched(name, value) for name, value in raw.items()}
    there = {name for name, needs in NEEDS.items() if all(need in raw for need in needs)}
    found = {}
    if "quality" in there:
        found["quality"] = weighted_mean(raw, QUALITY)
        found["official_quality"] = weighted_mean(stretched, QUALITY)
    if "official_i2v" in there:
        found["official_i2v"] = weighted_mean(stretched, FIRST_FRAME)
    if "average" in there:
        found["average"] = sum(raw[name] for name in DIMENSIONS) / len(DIMENSIONS)
        found["official"] = (found["official_quality"] + found["official_i2v"]) / 2
    return {name: found[name] for name in NEEDS if name in found}


def weighted_mean(scores: Mapping[str, float], names: tuple[str, ...]) -> float:
    """Mean of the named scores in which dynamic degree counts half."""
    return sum(scores[name] * WEIGHTS.get(name, 1.0) for name in names) / sum(WEIGHTS.get(name, 1.0) for name in names)


def by_short_name(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by the short names of the tables, from those or VBench's own. Raises InputError for an unknown name, or no score in percent."""
    short = {**{name: name for name in DIMENSIONS}, **{long: name for name, long in DIMENSIONS.items()}}
    for name, value in scores.items():
        if name not in short:
            raise InputError("VBench scores", name, "a name that is not known", f"one of {', '.join(DIMENSIONS)}", "rename or drop it")
        if not 0.0 <= value <= 100.0:
            raise InputError("VBench scores", name, value, "a raw score in percent, 0 to 100", "give raw scores, not normalised ones")
    return {short[name]: float(value) for name, value in scores.items()}


def _stretched(name: str, value: float) -> float:
    low, high = OFFICIAL_RANGES.get(name, (0.0, 100.0))
    return 100.0 * (value - low) / (high - low)
