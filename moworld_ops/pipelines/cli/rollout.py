"""CLI command `rollout`: an image and controls to a video with a record of where it comes from, or the replay of such a record."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import note, print_result, track
from moworld_ops.pipelines.cli.world import Backend, By, Device, Memory, Model, Prompt, Quantize, Signed, print_memory_plan, served_folder

ACTIONS = 'Keys and frames: w a s d move, i k pitch, j l yaw, as in "w*48,d*24"; a chunk that they do not fill goes on without keys.'
REPLAY = "Compute a recorded video again from FILE or FILE.json, and compare: --model is a candidate, --out both side by side."


@dataclass(frozen=True)
class Serving:
    """How the model is loaded: the options of the command of the same names; chunk_latents None is the model's own."""

    folder: Path
    memory: str
    quantize: bool
    device: str
    backend: str
    chunk_latents: int | None = None


@dataclass(frozen=True)
class Rolled:
    """Frames of the first picture and of every chunk, (T, H, W, 3) uint8; seconds for the chunks; what denoised; the chunk length."""

    chunks: list[Any]
    seconds: float
    backend: Literal["openvino", "torch"]
    fps: float
    chunk_latents: int


def rollout(
    image: Annotated[Path | None, option("First frame: an image, or a video whose first frame is used.")] = None,
    to: Annotated[Path | None, option("Video to write: .mp4, .webm or .gif.", "--out", panel="Output")] = None,
    actions: Annotated[str, option(ACTIONS)] = "w*48",
    poses: Annotated[Path | None, option("Camera file, used instead of the actions.")] = None,
    prompt: Prompt = "",
    seed: Annotated[int, option("Seed of the noise.", min=-(2**63), max=2**63 - 1)] = 0,
    replay: Annotated[Path | None, option(REPLAY, metavar="FILE")] = None,
    model: Model = "",
    memory: Memory = "",
    quantize: Quantize = False,
    device: Device = "",
    backend: By = Backend.auto,
    require_signature: Signed = False,
    json: Json = False,
) -> None:
    """Generate a video from an image and controls.

    Example: moworld rollout --image first.png --actions "w*48,l*24" --out world.mp4

    Example: moworld rollout --replay world.mp4 --model moworld-pocket@candidate --out both.mp4

    The controls are keys or camera poses. Frames are generated in whole chunks, 12 frames with the model in the package: "w*1" gives the
    first frame and 12 more. OUT.json says where the video comes from, signed if this machine has a key; see 'moworld release verify'.
    Under torchrun the ranks share the work; the last rank decodes.
    """
    from moworld.files import output_file
    from moworld.video import video_suffix

    if to is not None:
        output_file(to)
        video_suffix(to)
    if replay is not None:
        from moworld_ops.pipelines.cli.replay import replay_record

        if image is not None or poses is not None:
            raise InputError("--replay", replay, "--image or --poses beside it", "a record, which has its own", "omit them")
        replay_record(replay, to, model, require_signature, Serving(Path(), memory, quantize, device, backend.value), json)
        return
    if image is None or to is None:
        missing = "--image" if image is None else "--out"
        raise InputError(missing, "", "none", "an image to start from and a video to write", f"pass {missing} FILE, or --replay FILE")
    _generate(image, to, actions, poses, prompt, seed, Serving(served_folder(model, require_signature), memory, quantize, device, backend.value), model, json)


def compute(serving: Serving, first: Any, chunks: list[Any], prompt: str, seed: int) -> Rolled | None:
    """Returns the frames of a rollout, None on a rank that only computes its share.

    first: (H, W, 3) uint8; chunks: keys or poses of every chunk, see `WorldSession.step`
    """
    from moworld.inference import WorldSession
    from moworld.inference.loading import serving_world
    from moworld.inference.openvino import OpenVinoDenoiser
    from moworld.inference.session import stream
    from moworld_ops.components.platform.home import home

    cache = home() / "openvino"
    with serving_world(
        serving.folder, serving.memory, serving.quantize, serving.chunk_latents, serving.device, serving.backend, cache, note  # type: ignore[arg-type]
    ) as world:
        if world is None:
            return None
        print_memory_plan(world)
        session = WorldSession(world, chunk_latents=serving.chunk_latents)
        frames = [session.open(first, prompt=prompt, seed=seed)]
        started = time.perf_counter()
        frames.extend(track(stream(session, chunks), "rollout", total=len(chunks)))
        used: Literal["openvino", "torch"] = "openvino" if isinstance(world.denoiser, OpenVinoDenoiser) else "torch"
        return Rolled(frames, time.perf_counter() - started, used, world.config.fps, session.chunk_latents)


def _generate(
    image: Path, to: Path, actions: str, poses: Path | None, prompt: str, seed: int, serving: Serving, model: str, json: bool
) -> None:
    from moworld.camera.cameras import resize_to_cover
    from moworld.evaluation.speed import control_chunks
    from moworld.files import sha256_file
    from moworld.inference import provenance
    from moworld.model.world import read_config
    from moworld.video import write_video
    from moworld_ops.components.platform.content_credentials import embedder
    from moworld_ops.components.platform.provenance import identify_model, signer
    from moworld_ops.pipelines.cli.inputs import pose_chunks, read_picture

    record = provenance.sidecar_path(to)
    if record.exists():
        provenance.read_sidecar(record)  # refuses to replace a file that is not a record
    sign, config = signer(), read_config(serving.folder)
    picture = resize_to_cover(read_picture(image), (config.height, config.width))
    length = config.model.chunk_frames
    chunks: list[Any] = control_chunks(actions, length) if poses is None else pose_chunks(poses, length)
    rolled = compute(serving, picture, chunks, prompt, seed)
    if rolled is None:
        return
    count = write_video(to, (frame for chunk in rolled.chunks for frame in chunk), rolled.fps)
    controls = provenance.Controls(
        actions=actions if poses is None else "", poses="" if poses is None else provenance.encode_poses(_joined(chunks)), prompt=prompt, seed=seed,
        picture=provenance.encode_picture(picture), picture_sha256=sha256_file(image), chunk_latents=rolled.chunk_latents,
        backend=rolled.backend, quantized_while_loading=serving.quantize,
    )  # fmt: skip
    identity, digests = identify_model(model, serving.folder), provenance.digests_of(rolled.chunks, rolled.fps)
    provenance.write_sidecar(to, "rollout", identity, controls, digests, sign, embed=embedder())
    idle = 0 if poses is not None else _idle_frames(actions, len(chunks) * length)
    facts = {
        "video": str(to), "frames": count, "seconds": rolled.seconds, "fps": (count - 1) / rolled.seconds, "model": str(serving.folder),
        "frames_without_keys": idle, "record": str(record), "signed": sign is not None,
    }  # fmt: skip
    filled = f", the last {idle} without keys to fill a chunk of {length}" if idle else ""
    text = f"{to}: {count} frames in {rolled.seconds:.1f} s ({facts['fps']:.1f} frames per second){filled}"
    print_result(json, facts, f"{text}; {record}: {'signed' if sign else 'unsigned'}")


def _joined(chunks: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(chunks)


def _idle_frames(actions: str, frames: int) -> int:
    from moworld.camera.controls import parse_controls

    return frames - len(parse_controls(actions))
