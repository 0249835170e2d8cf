"""Plan of the data steps: pods, hours, store, requests and cost of so many hours of footage, from rates that say whether they were measured."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.pools import amount_of
from moworld_ops.pipelines.profile import Profile

MEASURED = "measured: docs/results/2026-11-partitions-two-cores.md"
ASSUMED = "assumed"
UNITS = {"h": 1.0, "min": 1 / 60, "d": 24.0}
LATENT_BYTES, SPATIAL, TEMPORAL, CHANNELS = 2, 8, 4, 16  # of the feature cache: float16, Wan's grid


@dataclass(frozen=True)
class Rate:
    """A number of the plan and where it is from."""

    name: str
    value: float
    unit: str
    origin: str


RATES = {
    rate.name: rate
    for rate in (
        Rate("import", 127.0, "CPU seconds per 10^9 source pixels", MEASURED),
        Rate("geometry", 3430.0, "CPU seconds per 10^9 clip pixels, cameras recovered", MEASURED),
        Rate("quality", 142.0, "CPU seconds per 10^9 clip pixels", MEASURED),
        Rate("clip bytes", 7.7e7, "bytes per 10^9 clip pixels, crf 18", MEASURED),
        Rate("merge", 2.6e-5, "CPU seconds per clip", MEASURED),
        Rate("encode", 12.0, "frames of the profile's size per second and accelerator", ASSUMED),
        Rate("source fps", 30.0, "frames per second of the footage", ASSUMED),
        Rate("source pixels", 1920 * 1080, "pixels of a source frame", ASSUMED),
        Rate("source bytes", 1.0e6, "bytes per second of footage (8 Mbit/s)", ASSUMED),
        Rate("kept", 0.5, "share of the footage that becomes clips", ASSUMED),
        Rate("clip seconds", 15.0, "seconds of a clip", ASSUMED),
        Rate("requests", 1.1, "requests per clip, repetitions included", ASSUMED),
        Rate("answer tokens", 60.0, "tokens of an answer", ASSUMED),
        Rate("prompt tokens", 120.0, "tokens of a question beside its pictures", ASSUMED),
        Rate("image patch", 28.0, "pixels of the side of a square that is one token", ASSUMED),
        Rate("request seconds", 4.0, "seconds from a request to its answer", ASSUMED),
        Rate("CPU price", 0.04, "per CPU and hour", ASSUMED),
    )
}


def hours_of(text: str) -> float:
    """Returns the hours of footage in "10000h", "90min" or "30d". Raises InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(h|min|d)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise InputError("--data", "", text, "an amount of footage above 0, as in 10000h, 90min or 30d", "write --data 10000h")
    return float(found[1]) * UNITS[found[2]]


def plan_data(profile: Profile, hours: float, changed: dict[str, float] | None = None) -> dict[str, Any]:
    """Returns {"stages", "totals", "rates"} for so many hours of footage.

    changed: values of RATES by name, instead of those here
    A stage has {"stage", "pods", "cpus", "hours", "cpu_hours", "cost", "from"}: pods work side by side in `data.partitions`.
    Raises InputError for an unknown rate.
    """
    rates = dict(RATES)
    for name, value in (changed or {}).items():
        if name not in rates:
            raise InputError("--rate", name, "no such rate", f"one of {', '.join(rates)}", "see the list of 'moworld plan --data 1h'")
        rates[name] = Rate(name, value, rates[name].unit, "given")
    given = {name: rate.value for name, rate in rates.items()}
    frames = hours * 3600 * (min(profile.data.fps or math.inf, given["source fps"]))
    source = hours * 3600 * given["source fps"] * given["source pixels"] / 1e9
    height = min(profile.data.max_height, math.sqrt(given["source pixels"] * 9 / 16))
    clip = frames * height * height * 16 / 9 / 1e9  # every shot is measured; `kept` of them stay
    kept = given["kept"] * frames
    clips = math.ceil(given["kept"] * hours * 3600 / given["clip seconds"])
    stages = [
        _cpu_stage("collect", "import", source * given["import"], profile, rates),
        _cpu_stage("complete_geometry", "geometry", clip * given["geometry"], profile, rates),
        _cpu_stage("check_quality", "quality", given["kept"] * clip * given["quality"], profile, rates),
        _captions(profile, clips, rates),
        _cpu_stage("merge_clips", "merge", clips * given["merge"], profile, rates, one=True),
        _encoding(profile, kept, rates),
    ]
    store = _store(profile, hours, given, kept, given["kept"] * clip)
    totals = {"clips": clips, "hours": sum(stage["hours"] for stage in stages), "cost": sum(stage["cost"] for stage in stages), **store}
    totals |= {key: stage[key] for stage in stages for key in ("requests", "tokens") if key in stage}
    return {"footage_hours": hours, "stages": stages, "totals": totals, "rates": [asdict(rate) for rate in rates.values()]}


def _cpu_stage(step: str, rate: str, cpu_seconds: float, profile: Profile, rates: dict[str, Rate], one: bool = False) -> dict[str, Any]:
    pods = 1 if one else min(profile.data.partitions, profile.data.partitions_at_once)
    pool = next(iter(profile.resources.pools_of(step)), None)
    cpus = 1.0 if one else amount_of(pool.cpu) if pool is not None else 2.0
    used = cpu_seconds / 3600
    cost = used * rates["CPU price"].value
    return {"stage": step, "pods": pods, "cpus": cpus, "hours": used / (pods * cpus), "cpu_hours": used, "cost": cost, "from": rates[rate].origin}


def _captions(profile: Profile, clips: int, rates: dict[str, Rate]) -> dict[str, Any]:
    pods = min(profile.data.partitions, profile.data.partitions_at_once)
    stage = {"stage": "annotate", "pods": pods, "cpus": 1.0, "cpu_hours": 0.0}
    vision = profile.annotation
    if vision is None:
        return {**stage, "hours": 0.0, "cost": 0.0, "requests": 0, "tokens": 0, "from": "no vision model in section annotation"}
    requests = math.ceil(clips * rates["requests"].value)
    side = math.ceil(vision.max_side / rates["image patch"].value) * math.ceil(vision.max_side * 9 / 16 / rates["image patch"].value)
    prompt, answer = rates["prompt tokens"].value + vision.frames * side, rates["answer tokens"].value
    cost = requests * (prompt * vision.input_price + answer * vision.output_price) / 1e6
    hours = requests * rates["request seconds"].value / (pods * vision.concurrency) / 3600
    return {**stage, "hours": hours, "cost": cost, "requests": requests, "tokens": round(requests * (prompt + answer)), "from": ASSUMED}


def _encoding(profile: Profile, frames: float, rates: dict[str, Rate]) -> dict[str, Any]:
    pods = min(profile.data.partitions, profile.data.partitions_at_once)
    pool = next(iter(profile.resources.pools_of("cache_features")), None)
    hours = frames / rates["encode"].value / 3600
    price = pool.device.price_per_hour if pool is not None and pool.device is not None else rates["CPU price"].value
    return {
        "stage": "cache_features", "pods": pods, "cpus": amount_of(pool.cpu) if pool is not None else 2.0, "hours": hours / pods,
        "cpu_hours": 0.0, "cost": hours * price, "from": rates["encode"].origin,
    }  # fmt: skip


def _store(profile: Profile, hours: float, value: dict[str, float], frames: float, gigapixels: float) -> dict[str, Any]:
    """Returns the bytes of sources, clips and features."""
    latents = frames / TEMPORAL * CHANNELS * (profile.data.height // SPATIAL) * (profile.data.width // SPATIAL) * LATENT_BYTES
    sizes = {"source_bytes": hours * 3600 * value["source bytes"], "clip_bytes": gigapixels * value["clip bytes"], "feature_bytes": latents}
    return {name: round(size) for name, size in sizes.items()}
