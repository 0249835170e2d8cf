"""The paper's aggregates follow from the paper's scores."""

import pytest

from moworld.errors import InputError
from moworld.evaluation.vbench import DIMENSIONS, NEEDS, available_aggregates, vbench_aggregate

TABLES = {  # system: the eight scores, then Quality and Average as printed in tables 1 and 2
    "1 CameraCtrl": (95.44, 95.36, 98.92, 38.00, 54.86, 66.27, 95.95, 97.48, 78.15, 80.29),
    "1 SEVA": (87.07, 90.18, 97.62, 62.00, 52.65, 61.40, 93.83, 95.64, 76.35, 80.05),
    "1 Lingbot": (93.91, 94.94, 97.80, 46.00, 57.54, 71.20, 97.27, 97.14, 79.71, 81.97),
    "1 MoWorld": (95.47, 95.68, 98.13, 60.00, 64.63, 71.11, 98.04, 98.68, 82.73, 85.22),
    "2 SEVA": (90.08, 92.23, 98.48, 56.00, 53.53, 50.09, 96.40, 93.18, 74.98, 78.75),
    "2 CameraCtrl": (84.31, 93.17, 97.86, 100.00, 46.26, 54.78, 93.27, 95.05, 77.52, 83.09),
    "2 WorldPlay": (95.88, 94.84, 99.29, 88.00, 51.76, 70.92, 99.00, 99.12, 83.04, 87.35),
    "2 Lingbot": (91.82, 93.93, 98.01, 92.00, 57.09, 73.30, 97.08, 96.64, 83.66, 87.48),
    "2 MoWorld": (95.46, 96.33, 98.12, 100.00, 59.40, 76.65, 98.22, 98.33, 86.54, 90.31),
}


@pytest.mark.parametrize("system", TABLES)
def test_the_papers_aggregates_follow_from_its_scores(system):
    *scores, quality, average = TABLES[system]
    found = vbench_aggregate(dict(zip(DIMENSIONS, scores, strict=True)))
    assert found["quality"] == pytest.approx(quality, abs=0.0101)  # printed to two decimals
    assert found["average"] == pytest.approx(average, abs=0.0101)


def test_vbenchs_names_are_equivalent():
    scores = dict(zip(DIMENSIONS, TABLES["1 MoWorld"], strict=False))
    assert vbench_aggregate({DIMENSIONS[name]: value for name, value in scores.items()}) == vbench_aggregate(scores)


def test_the_official_score_of_the_best_and_worst_videos_is_100_and_0():
    best = dict.fromkeys(DIMENSIONS, 100.0) | {"MS": 99.75}
    worst = {"SC": 14.62, "BC": 26.15, "MS": 70.6, "DD": 0.0, "AQ": 0.0, "IQ": 0.0, "I2V-S": 14.62, "I2V-B": 26.15}
    assert vbench_aggregate(best)["official"] == pytest.approx(100.0)
    assert vbench_aggregate(worst)["official"] == pytest.approx(0.0, abs=1e-12)
    assert vbench_aggregate(worst)["quality"] > 0


@pytest.mark.parametrize("change", [{"SC": 0.95e4}, {"XX": 1.0}, {"DD": float("nan")}])
def test_an_impossible_score_is_refused(change):
    with pytest.raises(InputError):
        vbench_aggregate(dict.fromkeys(DIMENSIONS, 50.0) | change)


def test_an_incomplete_set_of_scores_is_refused():
    with pytest.raises(InputError, match="I2V-B"):
        vbench_aggregate({name: 50.0 for name in DIMENSIONS if name != "I2V-B"})


@pytest.mark.parametrize(
    ("absent", "left"),
    [
        (("I2V-S",), {"quality", "official_quality"}),
        (("DD",), {"official_i2v"}),
        (("DD", "I2V-B"), set()),
        ((), set(NEEDS)),
    ],
)
def test_an_aggregate_exists_if_its_scores_exist(absent, left):
    scores = {name: value for name, value in zip(DIMENSIONS, TABLES["1 SEVA"], strict=False) if name not in absent}
    found = available_aggregates(scores)
    assert set(found) == left
    whole = vbench_aggregate(dict(zip(DIMENSIONS, TABLES["1 SEVA"], strict=False)))
    assert found == {name: whole[name] for name in found}
