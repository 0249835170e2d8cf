"""VBench-I2V's eight scores and their aggregates (paper 6.1), and which networks the scores themselves need.

No score is approximated here: where a network's weights are absent, the score is absent, with the reason.
"""

from collections.abc import Mapping
from pathlib import Path

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
# What each score is computed with: network, and the weight files that VBench looks for under its cache folder.
NETWORKS = {
    "SC": ("DINO ViT-B/16", "dino_model/dino_vitbase16_pretrain.pth"),
    "BC": ("CLIP ViT-B/32", "clip_model/ViT-B-32.pt"),
    "MS": ("AMT-S", "amt_model/amt-s.pth"),
    "DD": ("RAFT", "raft_model/models/raft-things.pth"),
    "AQ": ("CLIP ViT-L/14 with the LAION head", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "IQ": ("MUSIQ-SPAQ", "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"),
    "I2V-S": ("DINO ViT-B/16", "dino_model/dino_vitbase16_pretrain.pth"),
    "I2V-B": ("DreamSim", "dreamsim_cache/ensemble"),
}


def vbench_aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """Aggregates of the eight raw scores, in percent.

    scores:  SC, BC, MS, DD, AQ, IQ, I2V-S, I2V-B (or VBench's own names), raw, in percent
    returns: quality = (SC + BC + MS + 0.5 DD + AQ + IQ) / 5.5 and average = mean of the eight, as the paper's tables have them, from raw
             scores; official_quality, official_i2v and official = their mean, from scores stretched to VBench's ranges first. The official
             image-to-video score also weighs text-to-camera motion (0.1), which the paper does not report: it is left out of both.
    Raises InputError for a score that is missing, unknown or not in 0 to 100.
    """
    raw = _by_short_name(scores)
    stretched = {name: _stretched(name, value) for name, value in raw.items()}
    official_quality = weighted_mean(stretched, QUALITY)
    official_i2v = weighted_mean(stretched, FIRST_FRAME)
    return {
        "quality": weighted_mean(raw, QUALITY),
        "average": sum(raw.values()) / len(raw),
        "official_quality": official_quality,
        "official_i2v": official_i2v,
        "official": (official_quality + official_i2v) / 2,
    }


def weighted_mean(scores: Mapping[str, float], names: tuple[str, ...]) -> float:
    """Mean of the named scores in which dynamic degree counts half."""
    return sum(scores[name] * WEIGHTS.get(name, 1.0) for name in names) / sum(WEIGHTS.get(name, 1.0) for name in names)


def unavailable(cache: str | Path) -> dict[str, str]:
    """Which scores cannot be computed with the weights under VBench's cache folder, and why: name -> reason."""
    missing = {name: (network, Path(cache) / file) for name, (network, file) in NETWORKS.items()}
    return {name: f"weights of {network} are not at {path}" for name, (network, path) in missing.items() if not path.exists()}


def similarity_score(similarities: list[float]) -> float:
    """How well a video keeps its first frame: 0.4 max + 0.3 mean + 0.3 min of the frames' similarities to it (I2V-S, I2V-B)."""
    if not similarities:
        raise ValueError("no similarities")
    return 0.4 * max(similarities) + 0.3 * sum(similarities) / len(similarities) + 0.3 * min(similarities)


def dynamic_threshold(height: int, width: int) -> float:
    """Optical flow in pixels, at 8 frames a second, from which a frame pair counts as moving (DD)."""
    return 6.0 * min(height, width) / 256.0


def _stretched(name: str, value: float) -> float:
    low, high = OFFICIAL_RANGES.get(name, (0.0, 100.0))
    return 100.0 * (value - low) / (high - low)


def _by_short_name(scores: Mapping[str, float]) -> dict[str, float]:
    short = {**{name: name for name in DIMENSIONS}, **{long: name for name, long in DIMENSIONS.items()}}
    for name, value in scores.items():
        if name not in short:
            raise InputError("VBench scores", name, "a name that is not known", f"one of {', '.join(DIMENSIONS)}", "rename or drop it")
        if not 0.0 <= value <= 100.0:
            raise InputError("VBench scores", name, value, "a raw score in percent, 0 to 100", "give raw scores, not normalised ones")
    found = {short[name]: float(value) for name, value in scores.items()}
    for name in DIMENSIONS:
        if name not in found:
            raise InputError("VBench scores", name, "no score", "all eight scores", "an aggregate of fewer would not be comparable")
    return found
