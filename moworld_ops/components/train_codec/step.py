"""Step `train_codec`: trains the small video codec on training clips and measures it on every split."""

from pathlib import Path
from typing import Any

MEASURED_CLIPS = 8  # of a split, for its PSNR


def train_codec(
    clips: str, out: str, settings: dict[str, Any], size_hw: tuple[int, int], seed: int, base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Writes a codec folder with losses.json and codec_metrics.json (PSNR in dB of each split); returns the metrics.

    clips: folder of captioned clips; size_hw: the model's frame size in pixels
    base:  weights that training starts from (`moworld.model.settings.BaseSettings`); the codec continues from that in its folder `vae`, if any
    Clips that extend a data revision keep its codec, with its metrics, unless data.keep_codec is false. Otherwise it is trained.
    The PSNR of a split is that of at most MEASURED_CLIPS clips, spread over it; without training only these are read of the training split.
    Raises InputError when no clip belongs to the training split.
    """
    from moworld.data.clips import read_manifest
    from moworld.data.frames import model_frames
    from moworld.data.history import read_base
    from moworld.errors import InputError
    from moworld.files import atomic_folder, read_json_object, write_json
    from moworld.model.checkpoints.base import base_codec
    from moworld.model.settings import BaseSettings, CodecSettings
    from moworld.training.codec import reconstruction_psnr
    from moworld.training.codec import train_codec as train
    from moworld_ops.components.platform.revisions import fetch_folder

    if (extended := read_base(clips)) and extended["keep_codec"]:
        fetch_folder(extended["registry"], extended["revision"], "codec", out)
        return {**read_json_object(Path(out) / "codec_metrics.json"), "kept_from": extended["revision"]}
    chosen = CodecSettings(**settings)
    start = base_codec(BaseSettings(**base)) if base else None
    rows: dict[str, list[Any]] = {"train": [], "validation": [], "held_out": []}
    for clip in read_manifest(clips):
        rows[clip.split].append(clip)
    if not rows["train"]:
        raise InputError(Path(clips) / "manifest.parquet", "split", "no training clip", "at least one", "record or import more footage")
    if not chosen.steps and start is not None:
        rows["train"] = _spread(rows["train"])
    by_split = {split: [model_frames(clips, clip, size_hw) for clip in of] for split, of in rows.items()}
    codec, record = train(by_split["train"], chosen, seed, start)
    metrics = {f"psnr_{split}": round(reconstruction_psnr(codec, _spread(of)), 3) for split, of in by_split.items() if of}
    metrics["first_psnr_train"] = round(record["first_psnr_train"], 3)
    with atomic_folder(out) as target:
        codec.save_pretrained(target)
        write_json(target / "losses.json", record["losses"])
        write_json(target / "codec_metrics.json", metrics)
    return metrics


def _spread(clips: list[Any]) -> list[Any]:
    """Returns at most MEASURED_CLIPS of the clips, evenly spaced."""
    return clips if len(clips) <= MEASURED_CLIPS else [clips[index * len(clips) // MEASURED_CLIPS] for index in range(MEASURED_CLIPS)]
