"""The plan of the data steps: it grows with footage and shrinks with pods, and says where each rate is from."""

import pytest

from moworld.errors import InputError
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.data_plan import ASSUMED, hours_of, plan_data
from tests.moworld_ops.pipelines.command import Command

VISION = "annotation={url: 'http://x/v1', model: m, frames: 4, max_side: 448, input_price: 2.0, output_price: 10.0, concurrency: 10}"


def stages(hours: float, *overrides: str, **rates: float) -> dict[str, dict]:
    found = plan_data(profiles.load("wan22-a14b", list(overrides))[1], hours, {key.replace("_", " "): value for key, value in rates.items()})
    return {row["stage"]: row for row in found["stages"]} | {"totals": found["totals"], "rates": found["rates"]}


def test_time_follows_footage_and_pods():
    one, ten = stages(10), stages(100)
    assert ten["collect"]["hours"] == pytest.approx(10 * one["collect"]["hours"])
    apart = stages(10, "data.partitions=8", "data.partitions_at_once=4")
    for step in ("collect", "complete_geometry", "check_quality", "cache_features"):
        assert apart[step]["pods"] == 4 and apart[step]["hours"] == pytest.approx(one[step]["hours"] / 4)
        assert apart[step]["cost"] == pytest.approx(one[step]["cost"])
    assert apart["merge_clips"]["pods"] == 1


def test_requests_tokens_and_store():
    found = stages(100, VISION, "data.partitions=2", kept=0.5, clip_seconds=18, requests=1, image_patch=28, prompt_tokens=100, answer_tokens=50)
    clips = 0.5 * 100 * 3600 / 18
    assert found["totals"]["clips"] == found["annotate"]["requests"] == clips
    assert found["annotate"]["tokens"] == clips * (100 + 4 * 16 * 9 + 50)
    assert found["annotate"]["cost"] == pytest.approx(clips * ((100 + 576) * 2 + 50 * 10) / 1e6)
    assert found["annotate"]["hours"] == pytest.approx(clips * 4 / (2 * 10) / 3600)
    frames = 0.5 * 100 * 3600 * 30
    assert found["totals"]["feature_bytes"] == frames / 4 * 16 * 60 * 104 * 2


def test_rates_say_where_they_are_from():
    rates = {rate["name"]: rate for rate in stages(1, kept=0.25)["rates"]}
    assert rates["kept"] == {"name": "kept", "value": 0.25, "unit": rates["kept"]["unit"], "origin": "given"}
    assert rates["import"]["origin"].startswith("measured") and rates["encode"]["origin"] == ASSUMED
    with pytest.raises(InputError, match="no such rate"):
        stages(1, speed=2)


@pytest.mark.parametrize(("text", "hours"), [("10000h", 10000), ("90min", 1.5), ("2d", 48), ("0.5 h", 0.5)])
def test_amounts(text, hours):
    assert hours_of(text) == pytest.approx(hours)


@pytest.mark.parametrize("text", ["", "10", "-1h", "0h", "1y", "h"])
def test_other_amounts_are_refused(text):
    with pytest.raises(InputError, match="--data"):
        hours_of(text)


def test_the_command_prints_the_plan(tmp_path, monkeypatch, capsys):
    moworld = Command(tmp_path, monkeypatch, capsys)
    done = moworld("plan", "--data", "10000h", "--profile", "wan22-a14b", "--rate", "kept=0.3")
    assert done.returncode == 0 and "complete_geometry" in done.stdout and "measured: docs/results" in done.stdout and "given" in done.stdout
    assert moworld("plan", "--data", "1h", "--rate", "kept").returncode == 2
