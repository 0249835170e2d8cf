"""Step `cache_features`: encodes clips into the feature shards that training reads, and puts them under DVC (paper 3.4.1)."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("moworld.steps")
PARTITION_FACTS = "clip_facts.json"  # of a partition: frames, rate and median lens of each clip, for the world of all


def cache_features(
    clips: str,
    codec: str,
    out: str,
    data_settings: dict[str, Any],
    text_settings: dict[str, Any],
    cache: str | None = None,
    device: str = "",
    partition: int | None = None,
    earlier: str | None = None,
) -> dict[str, Any]:
    """Writes shards, index, licences.json, world.json (what a model of these features needs) and codec/; returns counts.

    cache:     folder of clips encoded before, which is read and added to; None encodes all. Several runs may write to it at a time
    device:    see `pick_device`
    partition: number of the partition, of `data.partitions` with about equal numbers of frames, that is encoded; None for all clips
    earlier:   features of the revision that the clips extend; their shards are kept if codec, frame size and text encoder are the same
    Raises InputError when there is no clip, or a clip has no camera. A partition may be empty.
    """
    from tqdm import tqdm

    from moworld.data.clips import read_manifest
    from moworld.data.features import LICENCES, EncodedClips, FeatureWriter
    from moworld.data.settings import DataSettings
    from moworld.errors import InputError
    from moworld.files import atomic_folder, link_or_copy, read_json_object, sha256_tree, write_json
    from moworld.model.text import TextSettings

    data, text = DataSettings(**data_settings), TextSettings(**text_settings)
    rows = read_manifest(clips) if partition is None else _partition(clips, data.partitions, partition)
    if not rows and partition is not None:
        with atomic_folder(out) as target:
            write_json(target / PARTITION_FACTS, [])
        return {"clips": 0, "encoded": 0, "captions": 0}
    if not rows:
        raise InputError(Path(clips) / "manifest.parquet", "", "no clip", "at least one", "see what the quality check put into quarantine")
    encoding = {"codec": sha256_tree(codec), "size": [data.height, data.width], "text": text_settings}
    with atomic_folder(out) as target:
        store = EncodedClips(cache or target / "encoded", encoding)
        writer = FeatureWriter(target)
        former = read_json_object(Path(earlier) / "world.json") if earlier else {}
        lenses = _keep_shards(writer, earlier, former, encoding | {"text": text.model_dump(mode="json")}, rows) if earlier else []
        done = {row.clip_id for row in writer.rows}
        missing = [clip for clip in rows if clip.clip_id not in done and store.read(clip) is None]
        for clip, tensors in _encode(missing, Path(clips), codec, (data.height, data.width), text, device):
            store.write(clip, tensors)
        for clip in tqdm([clip for clip in rows if clip.clip_id not in done], desc="shards", unit="clip", disable=None):
            found = store.read(clip)
            if found is None:
                raise RuntimeError(f"{store.path(clip)} was written and cannot be read")
            row = {key: getattr(clip, key) for key in ("clip_id", "split", "scene", "source", "video_sha256")}
            writer.add({**row, "caption": clip.caption or "", "num_frames": len(found["c2w"])}, found)
            lenses.append((len(found["c2w"]), found["intrinsics"].median(dim=0).values.tolist()))
        writer.close()
        shutil.rmtree(target / "encoded", ignore_errors=True)
        licences = {str(source): licence for source, licence in data.licences.items()}
        write_json(target / LICENCES, sorted({licences.get(clip.source, "not stated") for clip in rows}))
        rates = frame_rates([(clip.num_frames, clip.fps) for clip in rows])
        if len(rates) > 1:
            log.warning(mixed_rates(rates))
        if partition is not None:
            lens_of = [lens for _, lens in lenses]
            write_json(target / PARTITION_FACTS, [[clip.num_frames, clip.fps, lens] for clip, lens in zip(rows, lens_of, strict=True)])
        step = {key: former[key] for key in ("yaw_degrees", "pitch") if key in former and any(clip.source == "game" for clip in rows)}
        write_json(target / "world.json", step | _world(data, text, rates[0][0], common_intrinsics(lenses)))
        for path in sorted(Path(codec).glob("*")):
            link_or_copy(path, target / "codec" / path.name)
    counts = {"clips": len(rows), "encoded": len(missing), "kept": len(done)}
    return counts | {"captions": len({row.caption for row in rows})}


def _keep_shards(
    writer: Any, earlier: str, world: dict[str, Any], encoding: dict[str, Any], clips: list[Any]
) -> list[tuple[int, list[float]]]:
    """Takes over the shards of earlier features if codec, frame size and text encoder are the same; returns frames and lens of each clip.

    world: world.json of the earlier features; encoding: codec, frame size and text encoder of the new ones
    """
    from moworld.data.features import FeatureStore
    from moworld.files import sha256_tree

    if {"codec": sha256_tree(Path(earlier) / "codec"), "size": [world["height"], world["width"]], "text": world["text"]} != encoding:
        return []
    store = FeatureStore(earlier)
    writer.extend(store, {clip.clip_id: (clip.video_sha256, clip.caption or "", clip.split) for clip in clips})
    return [(row.num_frames, store.lens(row.clip_id)) for row in writer.rows]


def _partition(clips: str, count: int, number: int) -> list[Any]:
    """Returns the clips of a partition; the manifest's other rows are not made into clips."""
    from moworld.data.clips import MANIFEST, read_manifest
    from moworld.data.partitions import assign
    from moworld.files import read_parquet

    lengths = read_parquet(Path(clips) / MANIFEST, ["clip_id", "num_frames"]).to_pydict()
    parts = assign(dict(zip(lengths["clip_id"], lengths["num_frames"], strict=True)), count)
    return read_manifest(clips, {name for name, part in parts.items() if part == number})


def _encode(
    clips: list[Any], folder: Path, codec: str, size_hw: tuple[int, int], text: Any, device: str
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields each clip with its tensors. Encoders are loaded only if there is a clip."""
    import torch
    from tqdm import tqdm

    from moworld.data.frames import model_cameras, model_frames
    from moworld.devices import pick_device
    from moworld.model.text import make_text_encoder
    from moworld.model.wan_vae import load_codec
    from moworld.training.codec import to_video

    if not clips:
        return
    place, captions = pick_device(device), sorted({clip.caption or "" for clip in clips})
    embeddings = dict(zip(captions, make_text_encoder(text, place).encode(captions).cpu(), strict=True))
    encoder = load_codec(codec).to(place)
    for clip in tqdm(clips, desc="encoding", unit="clip", disable=None):
        frames, cameras = model_frames(folder, clip, size_hw), model_cameras(folder, clip, size_hw)
        with torch.no_grad():
            latents = encoder.encode(to_video(frames).to(place))[0].cpu()
        poses = {"c2w": torch.tensor(cameras.c2w), "intrinsics": torch.tensor(cameras.intrinsics)}
        yield clip, {"latents": latents, "text": embeddings[clip.caption or ""], **poses}


def put_under_dvc(features: str, registry: str, remote: str = "", clips: str = "") -> dict[str, Any]:
    """Records the folder as the registry's next revision; returns and writes revision.json, which also names the contracts.

    clips: folder of their clips, which the next import extends; "" for features without one
    Separate from the encoding, which runs on an accelerator pool whose image has no DVC.
    """
    from moworld.files import write_json
    from moworld_ops.components.platform.dataset import record_data_set
    from moworld_ops.components.platform.revisions import record_revision
    from moworld_ops.data_contracts.load import load_contract

    (Path(features) / "revision.json").unlink(missing_ok=True)
    revision = record_data_set(features, clips, registry, remote) if clips else record_revision(features, registry, "features", remote)
    contracts = ("clips", "geometry", "quality", "captions", "features")
    found = {"revision": revision, "contract_version": ", ".join(load_contract(name).title for name in contracts)}
    write_json(Path(features) / "revision.json", found)
    return found


def frame_rates(clips: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Returns the frame rates of clips, each (number of frames, rate), with their shares of all frames, the most common first.

    Rates that round to the same integer count as one, such as 23.976 and 24; it has the value that most of its frames have.
    """
    groups: dict[int, Counter[float]] = {}
    for frames, rate in clips:
        groups.setdefault(round(rate), Counter())[rate] += frames
    total, largest = sum(frames for frames, _ in clips), sorted(groups.values(), key=lambda group: -group.total())
    return [(group.most_common(1)[0][0], group.total() / total) for group in largest]


def mixed_rates(rates: list[tuple[float, float]]) -> str:
    """Returns the warning for footage of several frame rates (see `frame_rates`)."""
    shares = ", ".join(f"{rate:g} ({share:.0%})" for rate, share in rates)
    return f"clips of {shares} frames per second are mixed: sessions play at {rates[0][0]:g}, and a key moves by one step a frame at any rate"


def common_intrinsics(lenses: list[tuple[int, list[float]]]) -> list[float]:
    """Returns the median of fx, fy, cx, cy over all frames of clips, each (number of frames, median of the clip)."""
    frames, values = np.array([frames for frames, _ in lenses]), np.array([lens for _, lens in lenses])
    order = values.argsort(axis=0)
    middle = (frames[order].cumsum(axis=0) >= frames.sum() / 2).argmax(axis=0)
    return np.take_along_axis(values, order, axis=0)[middle, range(4)].tolist()


def _world(data: Any, text: Any, fps: float, intrinsics: list[float]) -> dict[str, Any]:
    """Returns frame size, rate, text settings, keyboard step and intrinsics, which sessions use as defaults."""
    world = {"height": data.height, "width": data.width, "fps": fps, "text": text.model_dump(mode="json")}
    if data.game is not None:
        world |= {"yaw_degrees": data.game.yaw_degrees_per_frame, "pitch": data.game.look_share > 0}
    world["intrinsics"] = [round(value, 6) for value in intrinsics]
    return world
