"""The VBench-I2V protocol on a folder of videos (paper 6.1): each score on the videos of its list, or the reason of its absence.

One network is in memory at a time. A score is absent if its network is, or if no video of its list could be scored. A video that cannot be
read or scored is a failure with a reason. The result has the numbers of scored and of expected videos.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
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
Score = Callable[[Case, Frames], list[float]]  # values of a video: one per frame (SC, BC), or one
Scorer = Callable[[Path, str], Score]  # (folder of weights, device) -> score; raises Absent
POOLED = ("SC", "BC")  # mean over all frames of all videos; others: mean over videos


def evaluate_videos(
    found: Found,
    weights: Path,
    device: str = "cpu",
    progress: Callable[[list[Case], str], Iterable[Case]] = lambda cases, _: cases,
    scorers: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """Scores the videos of a folder.

    weights:  VBench's cache folder
    progress: wraps the iteration over a score's videos; arguments: videos, name of the score
    scorers:  scorer by short name; None takes VBench's
    returns:  scores {short name: {score in percent, videos, expected}}, absent {short name: reason}, aggregates (those with all scores),
              absent_aggregates {name: reason}, failures [{score, video, reason}], missing, unknown, per_video {video: {score: value}}
    """
    record: dict[str, Any] = {"scores": {}, "absent": {}, "failures": [], "missing": found.missing, "unknown": found.unknown}
    per_video: dict[str, dict[str, float]] = {case.video.name: {} for case in found.cases}
    for name in DIMENSIONS:
        cases = [case for case in found.cases if name in case.dimensions]
        try:
            if not cases:
                raise Absent(f"none of the suite's {found.expected[name]} videos for it exists")
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
    """Returns `aggregates`, those with all scores, and `absent_aggregates`, the others with their missing scores."""
    found = available_aggregates(raw)
    lacking = {name: [need for need in needs if need not in raw] for name, needs in NEEDS.items() if name not in found}
    return {"aggregates": found, "absent_aggregates": {name: f"needs {', '.join(needs)}" for name, needs in lacking.items()}}


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


def _dynamic_degree(flow: Any, case: Case, frames: Frames) -> list[float]:
    images = frames_for.for_raft(frames[scores.sampled_for_flow(len(frames), video_info(case.video).fps)])
    speeds = [scores.flow_speed(flow(images[at : at + 1], images[at + 1 : at + 2])) for at in range(len(images) - 1)]
    return [float(scores.is_dynamic(speeds, *frames.shape[1:3]))]


def _first_frame_kept(prepare_image: Any, prepare: Any, network: Any, case: Case, frames: Frames) -> list[float]:
    return [scores.first_frame_kept(network(prepare_image(read_image(case)))[0], network(prepare(frames)))]


def _scorer(load: Callable[[Path, str], Any], score: Callable[[Any, Case, Frames], list[float]]) -> Scorer:
    """Returns a scorer that loads a network and passes it to `score` with each video."""
    return lambda weights, device: partial(score, load(weights, device))


SCORERS: dict[str, Scorer] = {
    "SC": _scorer(networks.load_dino, lambda dino, _, frames: list(scores.consistency(dino(frames_for.for_dino(frames))))),
    "BC": _scorer(networks.load_clip_b, lambda clip, _, frames: list(scores.consistency(clip(frames_for.for_clip(frames))))),
    "MS": _scorer(networks.load_amt, lambda between, _, frames: [scores.smoothness(frames, between(frames[::2]))]),
    "DD": _scorer(networks.load_raft, _dynamic_degree),
    "AQ": _scorer(networks.load_aesthetics, lambda head, _, frames: [float(head(frames_for.for_clip(frames)).mean()) / 10]),
    "IQ": _scorer(networks.load_musiq, lambda musiq, _, frames: [float(musiq(frames_for.for_musiq(frames)).mean()) / 100]),
    "I2V-S": _scorer(networks.load_dino, partial(_first_frame_kept, frames_for.picture_for_dino_centre, frames_for.for_dino_centre)),
    "I2V-B": _scorer(networks.load_dreamsim, partial(_first_frame_kept, frames_for.picture_for_dreamsim, frames_for.for_dreamsim)),
}


def read_image(case: Case) -> Frames:
    """Returns the first image (H, W, 3) uint8 RGB of a video; raises InputError if it is missing or unreadable."""
    from PIL import Image, UnidentifiedImageError

    if case.image is None:
        raise InputError(case.video, "picture", "none", "the first image of the video", "give the suite's images with --images")
    try:
        return np.array(Image.open(case.image).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(case.image, "", f"{type(error).__name__}: {error}", "a readable image", "replace the file") from None
