"""Encode clips into feature shards, and put them under DVC: what training reads, and nothing else."""

from pathlib import Path
from typing import Any


def cache_features(
    clips: str, codec: str, out: str, data_settings: dict[str, Any], text_settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write shards and index, world.json (what a model of these features must know) and codec/.

    seed: not drawn from; encoding is deterministic
    """
    import torch
    from tqdm import tqdm

    from moworld.data.clips import read_manifest
    from moworld.data.features import FeatureWriter
    from moworld.data.frames import model_cameras, model_frames
    from moworld.data.sources import DataSettings
    from moworld.errors import InputError
    from moworld.files import atomic_folder, link_or_copy, write_json
    from moworld.model.text import TextSettings, make_text_encoder
    from moworld.model.wan_vae import load_codec
    from moworld.training.codec import to_video

    data, text = DataSettings(**data_settings), TextSettings(**text_settings)
    size_hw, rows = (data.height, data.width), read_manifest(clips)
    if not rows:
        raise InputError(Path(clips) / "manifest.parquet", "", "no clip", "at least one", "see what the quality check put into quarantine")
    captions = sorted({row.caption or "" for row in rows})
    embeddings = dict(zip(captions, make_text_encoder(text).encode(captions), strict=True))
    encoder = load_codec(codec)
    with atomic_folder(out) as target:
        writer, cameras = FeatureWriter(target), None
        for clip in tqdm(rows, desc="features", unit="clip"):
            frames, cameras = model_frames(clips, clip, size_hw), model_cameras(clips, clip, size_hw)
            with torch.no_grad():
                latents = encoder.encode(to_video(frames))[0]
            row = {key: getattr(clip, key) for key in ("clip_id", "split", "scene", "source", "video_sha256")}
            row |= {"caption": clip.caption or "", "num_frames": len(frames)}
            writer.add(row, latents, embeddings[clip.caption or ""], cameras.c2w, cameras.intrinsics)
        writer.close()
        write_json(target / "world.json", _world(data, text, rows[0].fps, cameras))
        for path in sorted(Path(codec).glob("*")):
            link_or_copy(path, target / "codec" / path.name)
    return {"clips": len(rows), "captions": len(captions)}


def put_under_dvc(features: str, registry: str) -> dict[str, Any]:
    """Record the folder as the registry's next revision and note it in revision.json, beside the contract its clips passed.

    Apart from the encoding: that runs on an accelerator's pool, whose image carries no DVC.
    """
    from components.platform.revisions import record_revision
    from data_contracts.load import load_contract
    from moworld.files import write_json

    (Path(features) / "revision.json").unlink(missing_ok=True)
    revision = record_revision(features, registry, "features")
    found = {"revision": revision, "contract_version": load_contract("clips").version}
    write_json(Path(features) / "revision.json", found)
    return found


def _world(data: Any, text: Any, fps: float, cameras: Any) -> dict[str, Any]:
    """Frame size, rate, text settings, and the key steps and lens of the footage, which sessions take over."""
    world = {"height": data.height, "width": data.width, "fps": fps, "text": text.model_dump(mode="json")}
    if data.game is not None:
        world["yaw_degrees"] = data.game.yaw_degrees_per_frame
    world["intrinsics"] = [round(float(value), 6) for value in cameras.intrinsics[0]]
    return world
