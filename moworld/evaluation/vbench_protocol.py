"""The VBench-I2V protocol on a folder of videos (paper 6.1): each score on the videos that the suite lists for it, or the reason it is absent.

One network is in memory at a time. A score is absent when its network is, and when no video of its list could be scored; a video that cannot
be read or scored is a failure with its reason. What was scored stands beside what the suite asks for.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.evaluation import vbench_frames as frames_for
from moworld.evaluation import vbench_networks as networks
from moworld.evaluation import vbench_scores as scores
from moworld.evaluation.vbench import DIMENSIONS, NEEDS, available_aggregates
from moworld.evaluation.vbench_networks import Absent
from moworld.evaluation.vbench_suite import Case, Found
from moworld.video import read_frames, video_info

Frames = NDArray[np.uint8]
Score = Callable[[Case, Frames], list[float]]  # of a video: a value a frame (SC, BC), or one
Scorer = Callable[[Path, str], Score]  # from the weights' folder and a device; raises Absent
POOLED = ("SC", "BC")  # the mean over all videos' frames; the others are the mean over videos


def evaluate_videos(
    found: Found,
    weights: Path,
    device: str = "cpu",
    progress: Callable[[list[Case], str], Iterable[Case]] = lambda cases, _: cases,
    scorers: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """Scores of the videos found.

    weights:  VBench's cache folder
    progress: called with a score's videos and its name, and goes through them
    scorers:  what makes each score; None takes VBench's
    returns:  scores {short name: {score in percent, videos, expected}}, absent {short name: reason}, aggregates (those whose scores are all
              there), absent_aggregates {name: reason}, failures [{score, video, reason}], missing, unknown, per_video {video: {score: value}}
    """
    record: dict[str, Any] = {"scores": {}, "absent": {}, "failures": [], "missing": found.missing, "unknown": found.unknown}
    per_video: dict[str, dict[str, float]] = {case.video.name: {} for case in found.cases}
    for name in DIMENSIONS:
        cases = [case for case in found.cases if name in case.dimensions]
        try:
            if not cases:
                raise Absent(f"none of the suite's {found.expected[name]} videos for it is there")
            values = _scored(name, (scorers or SCORERS)[name](weights, device), progress(cases, name), record["failures"])
            if not values:
                raise Absent(f"none of its {len(cases)} videos could be scored, first: {record['failures'][-len(cases)]['reason']}")
        except Absent as reason:
            record["absent"][name] = str(reason)
            continue
        for video, parts in values.items():
            per_video[video][name] = 100 * float(np.mean(parts))
        whole = np.concatenate([*values.values()]) if name in POOLED else [np.mean(parts) for parts in values.values()]
        record["scores"][name] = {"score": 100 * float(np.mean(whole)), "videos": len(values), "expected": found.expected[name]}
    record["per_video"] = per_video
    return {**record, **aggregates({name: row["score"] for name, row in record["scores"].items()})}


def aggregates(raw: dict[str, float]) -> dict[str, Any]:
    """aggregates, those that can be computed, and absent_aggregates, the others with the scores that they lack."""
    there = available_aggregates(raw)
    lacking = {name: [need for need in needs if need not in raw] for name, needs in NEEDS.items() if name not in there}
    return {"aggregates": there, "absent_aggregates": {name: f"needs {', '.join(needs)}" for name, needs in lacking.items()}}


def _scored(name: str, score: Score, cases: Iterable[Case], failures: list[dict[str, str]]) -> dict[str, list[float]]:
    values = {}
    for case in cases:
        try:
            frames = read_frames(case.video)
            if len(frames) < 3:
                raise InputError(case.video, "", f"{len(frames)} frames", "at least 3", "give a longer video")
            values[case.video.name] = score(case, frames)
        except (InputError, Absent) as error:
            failures.append({"score": name, "video": case.video.name, "reason": str(error)})
    return values


def _subject_consistency(weights: Path, device: str) -> Score:
    dino = networks.load_dino(weights, device)
    return lambda _, frames: list(scores.consistency(dino(frames_for.for_dino(frames))))


def _background_consistency(weights: Path, device: str) -> Score:
    clip = networks.load_clip_b(weights, device)
    return lambda _, frames: list(scores.consistency(clip(frames_for.for_clip(frames))))


def _motion_smoothness(weights: Path, device: str) -> Score:
    between = networks.load_amt(weights, device)
    return lambda _, frames: [scores.smoothness(frames, between(frames[::2]))]


def _dynamic_degree(weights: Path, device: str) -> Score:
    flow = networks.load_raft(weights, device)

    def score(case: Case, frames: Frames) -> list[float]:
        sampled = frames[scores.sampled_for_flow(len(frames), video_info(case.video).fps)]
        images = frames_for.for_raft(sampled)
        speeds = [scores.flow_speed(flow(images[at : at + 1], images[at + 1 : at + 2])) for at in range(len(images) - 1)]
        return [float(scores.is_dynamic(speeds, *frames.shape[1:3]))]

    return score


def _aesthetic_quality(weights: Path, device: str) -> Score:
    head = networks.load_aesthetics(weights, device)
    return lambda _, frames: [float(head(frames_for.for_clip(frames)).mean()) / 10]


def _imaging_quality(weights: Path, device: str) -> Score:
    musiq = networks.load_musiq(weights, device)
    return lambda _, frames: [float(musiq(frames_for.for_musiq(frames)).mean()) / 100]


def _subject_kept(weights: Path, device: str) -> Score:
    dino = networks.load_dino(weights, device)

    def score(case: Case, frames: Frames) -> list[float]:
        picture = dino(frames_for.picture_for_dino_centre(read_picture(case)))[0]
        return [scores.first_frame_kept(picture, dino(frames_for.for_dino_centre(frames)))]

    return score


def _background_kept(weights: Path, device: str) -> Score:
    dreamsim = networks.load_dreamsim(weights, device)

    def score(case: Case, frames: Frames) -> list[float]:
        picture = dreamsim(frames_for.picture_for_dreamsim(read_picture(case)))[0]
        return [scores.first_frame_kept(picture, dreamsim(frames_for.for_dreamsim(frames)))]

    return score


SCORERS: dict[str, Scorer] = {
    "SC": _subject_consistency,
    "BC": _background_consistency,
    "MS": _motion_smoothness,
    "DD": _dynamic_degree,
    "AQ": _aesthetic_quality,
    "IQ": _imaging_quality,
    "I2V-S": _subject_kept,
    "I2V-B": _background_kept,
}


def read_picture(case: Case) -> Frames:
    """The picture (H, W, 3) uint8 RGB that a video started from. Raises InputError when it is not there or cannot be read."""
    from PIL import Image, UnidentifiedImageError

    if case.image is None:
        raise InputError(case.video, "picture", "none", "the picture the video started from", "give the suite's pictures with --images")
    try:
        return np.array(Image.open(case.image).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(case.image, "", f"{type(error).__name__}: {error}", "a readable picture", "replace the file") from None
