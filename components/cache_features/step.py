"""Encode clips into feature shards, and put them under DVC: what training reads, and nothing else."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_features(
    clips: str, codec: str, out: str, data_settings: dict[str, Any], text_settings: dict[str, Any], seed: int, cache: str | None = None
) -> dict[str, Any]:
    """Write shards and index, licences.json, world.json (what a model of these features must know) and codec/.

    seed: not drawn from; encoding is deterministic
    cache: folder of clips that were encoded before, read and added to; None encodes all
    """
    from tqdm import tqdm

    from moworld.data.clips import read_manifest
    from moworld.data.encoded import EncodedClips
    from moworld.data.features import LICENCES, FeatureWriter
    from moworld.data.sources import DataSettings
    from moworld.errors import InputError
    from moworld.files import atomic_folder, link_or_copy, sha256_tree, write_json
    from moworld.model.text import TextSettings

    data, text, rows = DataSettings(**data_settings), TextSettings(**text_settings), read_manifest(clips)
    if not rows:
        raise InputError(Path(clips) / "manifest.parquet", "", "no clip", "at least one", "see what the quality check put into quarantine")
    made_by = {"codec": sha256_tree(codec), "size": [data.height, data.width], "text": text_settings}
    with atomic_folder(out) as target:
        known = EncodedClips(cache or target / "encoded", made_by)
        missing = [clip for clip in rows if known.read(clip) is None]
        for clip, tensors in _encoded(missing, Path(clips), codec, (data.height, data.width), text):
            known.write(clip, tensors)
        writer, camera = FeatureWriter(target), None
        for clip in tqdm(rows, desc="shards", unit="clip", disable=None):
            found = known.read(clip)
            if found is None:
                raise RuntimeError(f"{known.path(clip)} was written and cannot be read")
            row = {key: getattr(clip, key) for key in ("clip_id", "split", "scene", "source", "video_sha256")}
            writer.add({**row, "caption": clip.caption or "", "num_frames": len(found["c2w"])}, found)
            camera = found["intrinsics"][0]
        writer.close()
        shutil.rmtree(target / "encoded", ignore_errors=True)
        stated = {str(source): licence for source, licence in data.licences.items()}
        write_json(target / LICENCES, sorted({stated.get(clip.source, "not stated") for clip in rows}))
        write_json(target / "world.json", _world(data, text, rows[0].fps, camera))
        for path in sorted(Path(codec).glob("*")):
            link_or_copy(path, target / "codec" / path.name)
    return {"clips": len(rows), "encoded": len(missing), "captions": len({row.caption for row in rows})}


def _encoded(clips: list[Any], folder: Path, codec: str, size_hw: tuple[int, int], text: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each clip with its tensors; encoders are loaded where there is something to encode."""
    import torch
    from tqdm import tqdm

    from moworld.data.encoded import half
    from moworld.data.frames import model_cameras, model_frames
    from moworld.model.text import make_text_encoder
    from moworld.model.wan_vae import load_codec
    from moworld.training.codec import to_video

    if not clips:
        return
    captions = sorted({clip.caption or "" for clip in clips})
    embeddings = dict(zip(captions, make_text_encoder(text).encode(captions), strict=True))
    encoder = load_codec(codec)
    for clip in tqdm(clips, desc="encoding", unit="clip", disable=None):
        frames, cameras = model_frames(folder, clip, size_hw), model_cameras(folder, clip, size_hw)
        with torch.no_grad():
            latents = encoder.encode(to_video(frames))[0]
        yield clip, half(latents, embeddings[clip.caption or ""], cameras.c2w, cameras.intrinsics)


def put_under_dvc(features: str, registry: str, remote: str = "") -> dict[str, Any]:
    """Record the folder as the registry's next revision and note it in revision.json, beside the contracts its clips passed.

    Apart from the encoding: that runs on an accelerator's pool, whose image carries no DVC.
    """
    from components.platform.revisions import record_revision
    from data_contracts.load import load_contract
    from moworld.files import write_json

    kept = ("clips", "geometry", "quality", "captions", "features")

    (Path(features) / "revision.json").unlink(missing_ok=True)
    revision = record_revision(features, registry, "features", remote)
    found = {"revision": revision, "contract_version": ", ".join(load_contract(name).title for name in kept)}
    write_json(Path(features) / "revision.json", found)
    return found


def _world(data: Any, text: Any, fps: float, intrinsics: Any) -> dict[str, Any]:
    """Frame size, rate, text settings, and the key steps and lens of the footage, which sessions take over."""
    world = {"height": data.height, "width": data.width, "fps": fps, "text": text.model_dump(mode="json")}
    if data.game is not None:
        world["yaw_degrees"] = data.game.yaw_degrees_per_frame
    world["intrinsics"] = [round(float(value), 6) for value in intrinsics]
    return world
