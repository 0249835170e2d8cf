"""Replay of a recorded video (`rollout --replay`): the same model must give the same frames; a candidate is put beside what was recorded."""

import tempfile
from pathlib import Path
from typing import Any

from moworld.errors import InputError, IntegrityError
from moworld_ops.pipelines.cli.output import print_result
from moworld_ops.pipelines.cli.rollout import Rolled, Serving, compute
from moworld_ops.pipelines.cli.world import served_folder

EQUAL_DB = 100.0  # written for equal frames, whose PSNR is infinite


def replay_record(path: Path, out: Path | None, model: str, signed: bool, options: Serving, json: bool) -> None:
    """Computes a recorded video again and prints how its frames compare.

    path: the video or its record; out: video with the recorded frames left and the new ones right, None for none
    model: of `--model`; "" is the recorded one
    Raises IntegrityError if the recorded model gives other frames, InputError for a record or a model that cannot be used.
    """
    from dataclasses import replace

    from moworld.inference.provenance import digests_of
    from moworld_ops.components.platform.provenance import identify_model

    record, video = _read(path)
    reference = model or _recorded_model(record)
    folder = served_folder(reference, signed)
    identity = identify_model(reference, folder)
    same, controls = identity.sha256 == record.model.sha256, record.controls
    backend = controls.backend if options.backend == "auto" else options.backend
    chunk_latents = controls.chunk_latents if same else None
    serving = replace(options, folder=folder, backend=backend, chunk_latents=chunk_latents, quantize=options.quantize or (same and controls.quantized_while_loading))
    rolled = compute(serving, _picture(controls), _chunks(controls, serving), controls.prompt, controls.seed)
    if rolled is None:
        return
    ours, recorded = digests_of(rolled.chunks, rolled.fps).chunks, record.frames.chunks
    equal = sum(1 for one, other in zip(ours, recorded, strict=False) if one == other)
    facts: dict[str, Any] = {
        "record": str(path), "same_model": same, "same_frames": ours == recorded, "recorded_model": record.model.model_dump(),
        "model": identity.model_dump(), "equal_chunks": equal, "chunks": len(recorded), "seconds": rolled.seconds, "backend": rolled.backend,
    }  # fmt: skip
    if video is not None:
        facts["psnr_to_recorded_video"] = _compare(video, rolled, out, record)
    elif out is not None:
        raise InputError(path, "", "no video beside the record", "the recorded video, to put beside the new one", "keep the two files together")
    if out is not None:
        facts["video"] = str(out)
    if same and ours != recorded:
        at = next((index for index, pair in enumerate(zip(ours, recorded, strict=False)) if pair[0] != pair[1]), min(len(ours), len(recorded)))
        found = f"other frames from chunk {at} of {len(recorded) - 1} on"
        fix = f"compare --backend, --device and the versions of its packages with those of {record.software}"
        raise IntegrityError(path, "frames", found, "those of the record, because the model is the same", fix)
    print_result(json, facts, _text(facts, identity.sha256, record))


def _text(facts: dict[str, Any], sha256: str, record: Any) -> str:
    if facts["same_model"]:
        return f"the same frames: {record.frames.count} in {facts['chunks']} chunks, by model {sha256[:12]}"
    psnr = facts.get("psnr_to_recorded_video")
    beside = f", {psnr['mean']:.1f} dB to the recorded video (first chunk {psnr['chunks'][0]:.1f}, last {psnr['chunks'][-1]:.1f})" if psnr else ""
    shown = f"; {facts['video']} has both side by side" if "video" in facts else ""
    return f"candidate {sha256[:12]} beside {record.model.sha256[:12]}: {facts['equal_chunks']} of {facts['chunks']} chunks equal{beside}{shown}"


def _read(path: Path) -> tuple[Any, Path | None]:
    """Returns the record and its video, None if it is not there. A record or video that was changed is refused."""
    from moworld.inference.provenance import read_sidecar, sidecar_path
    from moworld_ops.components.platform.provenance import verify_video

    file = path if path.suffix == ".json" else sidecar_path(path)
    video = file.with_suffix("")
    return (verify_video(video, unsigned=True).record, video) if video.is_file() and file.is_file() else (read_sidecar(file)[0].record, None)


def _recorded_model(record: Any) -> str:
    """Returns the reference of the recorded model. Raises InputError if this machine does not have it."""
    from moworld.files import SHIPPED_MODEL, sha256_tree
    from moworld_ops.components.platform.registry import ModelRegistry

    registry, model = ModelRegistry(), record.model
    if model.name and registry.exists and any(one.version == model.version for one in registry.versions(model.name)):
        return f"{model.name}@{model.version}"
    if SHIPPED_MODEL.is_dir() and sha256_tree(SHIPPED_MODEL) == model.sha256:
        return ""
    found = f"{model.name}@{model.version}" if model.name else f"a model with SHA-256 {model.sha256[:12]}"
    raise InputError("--model", "", f"{found}, which this machine does not have", "the recorded model or a candidate", "pass --model")


def _picture(controls: Any) -> Any:
    """Returns the recorded first frame, decoded within the limits of an image from elsewhere."""
    from moworld.inference.provenance import decode_bytes
    from moworld_ops.pipelines.cli.inputs import read_picture

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "record.png")
        file.write_bytes(decode_bytes(controls.picture))
        return read_picture(file)


def _chunks(controls: Any, serving: Serving) -> list[Any]:
    """Returns the recorded controls in chunks of the model that replays."""
    from moworld.evaluation.speed import control_chunks
    from moworld.inference.provenance import decode_poses
    from moworld.inference.worlds import facts_of
    from moworld.model.world import read_config

    length = facts_of(read_config(serving.folder), serving.chunk_latents).chunk_frames
    if not controls.poses:
        return list(control_chunks(controls.actions, length))
    poses = decode_poses(controls.poses)
    if len(poses) < length:
        raise InputError("record", "controls.poses", f"{len(poses)} poses", f"at least {length}, a chunk of the model", "choose another model")
    return [poses[start : start + length] for start in range(0, len(poses) // length * length, length)]


def _compare(video: Path, rolled: Rolled, out: Path | None, record: Any) -> dict[str, Any]:
    """Returns the PSNR in dB of the new frames to the recorded video, of all and of every chunk in it; writes both side by side if `out`."""
    import numpy as np

    from moworld.camera.cameras import resize_to_cover
    from moworld.video import read_frames, write_video

    recorded = read_frames(video)
    ours = [resize_to_cover(frame, recorded.shape[1:3]) for chunk in rolled.chunks for frame in chunk]
    pairs = list(zip(recorded, ours[record.first_frame :], strict=False))
    if not pairs:
        raise InputError(video, "frames", f"{len(ours)} of this model", f"more than {record.first_frame}, where the video begins", "choose another model")
    errors = np.array([np.square(one.astype(np.float64) - other).mean() for one, other in pairs])
    if out is not None:
        write_video(out, (np.concatenate(pair, axis=1) for pair in pairs), record.frames.fps)
    ends = np.cumsum([len(chunk) for chunk in rolled.chunks])[:-1] - record.first_frame
    chunks = [_psnr(part.mean()) for part in np.split(errors, ends[(ends > 0) & (ends < len(errors))])]
    return {"mean": _psnr(errors.mean()), "chunks": chunks, "frames": len(pairs)}


def _psnr(squared_error: float) -> float:
    import numpy as np

    return EQUAL_DB if squared_error == 0 else float(min(EQUAL_DB, 10 * np.log10(255**2 / squared_error)))
