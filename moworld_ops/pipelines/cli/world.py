"""CLI commands `rollout` (image and controls -> video) and `play` (a world in the browser)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from moworld.errors import InputError
from moworld_ops.pipelines.cli.layout import Json, option
from moworld_ops.pipelines.cli.output import note, print_result, track


class Backend(StrEnum):
    auto = "auto"
    torch = "torch"
    openvino = "openvino"


MODEL, SERVER = "Model", "Server"
IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
Model = Annotated[str, option("A model directory, or a registered NAME@ALIAS; default: the model in the package.", panel=MODEL)]
Memory = Annotated[str, option("Memory budget, as in 2GB: modules are loaded when they are needed.", metavar="SIZE", panel=MODEL)]
Quantize = Annotated[bool, option("Convert a full-precision model to INT8 while it is loaded.", "--quantize", panel=MODEL)]
BACKEND = option("What denoises on a CPU: auto times a chunk on each, once for each model and machine.", "--backend", panel=MODEL)
By = Annotated[Backend, BACKEND]
SIGNED = option("Accept only a model with a valid signature.", "--require-signature", envvar="MOWORLD_REQUIRE_SIGNATURE", panel=MODEL)
Signed = Annotated[bool, SIGNED]
Device = Annotated[str, option("PyTorch device, such as cpu or cuda:1; default: this machine's accelerator.", panel=MODEL)]
Prompt = Annotated[str, option("Description of the scene.")]


def rollout(
    image: Annotated[Path, option("First frame: an image, or a video whose first frame is used.")],
    to: Annotated[Path, option("Video to write.", "--out", panel="Output")],
    actions: Annotated[str, option('Keys and counts: w a s d move, i k pitch, j l yaw, as in "w*48,d*24".')] = "w*48",
    poses: Annotated[Path | None, option("Camera file, used instead of the actions.")] = None,
    prompt: Prompt = "",
    seed: Annotated[int, option("Seed of the noise.")] = 0,
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

    The controls are keys or camera poses. Under torchrun the ranks share the work; the last rank decodes.
    """
    from moworld.files import output_file

    output_file(to)
    from moworld.evaluation.speed import control_chunks
    from moworld.inference.loading import serving_world
    from moworld.model.world import read_config
    from moworld_ops.components.platform.home import home

    folder, first = _folder(model, require_signature), read_picture(image)
    chunk = read_config(folder).model.chunk_frames
    chunks = control_chunks(actions, chunk) if poses is None else pose_chunks(poses, chunk)
    with serving_world(folder, memory, quantize, None, device, backend.value, home() / "openvino", note) as world:
        if world is None:  # a rank that only computes its share
            return
        _print_memory_plan(world)
        facts = {**_roll_out(world, first, chunks, prompt, seed, to), "model": str(folder)}
    print_result(json, facts, f"{to}: {facts['frames']} frames in {facts['seconds']:.1f} s ({facts['fps']:.1f} frames per second)")


def _print_memory_plan(world: Any) -> None:
    if (residency := getattr(world.denoiser, "residency", None)) is not None:
        for line in residency.plan.lines():
            note(line)


def _roll_out(world: Any, first: Any, chunks: list[Any], prompt: str, seed: int, to: Path) -> dict[str, Any]:
    import time

    from moworld.inference import WorldSession
    from moworld.inference.session import stream
    from moworld.video import write_video

    session = WorldSession(world)
    frames = list(session.open(first, prompt=prompt, seed=seed))
    started = time.perf_counter()
    for part in track(stream(session, chunks), "rollout", total=len(chunks)):
        frames.extend(part)
    seconds = time.perf_counter() - started
    count = write_video(to, frames, world.config.fps)
    return {"video": str(to), "frames": count, "seconds": seconds, "fps": (count - 1) / seconds}


def play(
    image: Annotated[Path | None, option("An image to start from, before those of the model.")] = None,
    prompt: Prompt = "",
    fps: Annotated[float, option("Frames per second.", min=1, max=120)] = 30.0,
    low_latency: Annotated[bool, option("Chunks of one latent frame: keys take effect sooner.", "--low-latency")] = False,
    model: Model = "",
    memory: Memory = "",
    quantize: Quantize = False,
    device: Device = "",
    backend: By = Backend.auto,
    require_signature: Signed = False,
    host: Annotated[str, option("Address to listen on; an address other than loopback needs a token.", panel=SERVER)] = "127.0.0.1",
    port: Annotated[int, option("Port; 0 takes a free one.", min=0, max=65535, panel=SERVER)] = 8800,
    token: Annotated[str, option("Token of the visitors; default: a random one.", envvar="MOWORLD_PLAY_TOKEN", panel=SERVER)] = "",
    sessions: Annotated[int, option("Maximum number of visitors; later ones wait in a queue.", min=1, max=64, panel=SERVER)] = 2,
    origin: Annotated[str, option("Address of a proxy with TLS in front, such as https://world.example.", metavar="URL", panel=SERVER)] = "",
) -> None:
    """Walk through a world in the browser.

    Example: moworld play --model moworld-pocket@champion

    Keys: W A S D, arrows, touch or a gamepad. Under torchrun the ranks share the work. Ends with exit status 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    import secrets

    from moworld.inference.engine import Engine
    from moworld.inference.loading import serving_world
    from moworld.inference.pictures import model_pictures
    from moworld.inference.player import server
    from moworld_ops.components.platform.home import home

    folder, chunk_latents = _folder(model, require_signature), 1 if low_latency else None
    pictures = ([read_picture(image)] if image else []) + model_pictures(folder)
    origin = server.check_origin(origin)
    if (host not in server.LOOPBACK or origin) and not token:
        token = secrets.token_urlsafe(24)
    with serving_world(folder, memory, quantize, chunk_latents, device, backend.value, home() / "openvino", note) as world:
        if world is None:  # a rank that only computes its share
            return
        _print_memory_plan(world)
        engine = Engine(world, sessions, chunk_latents=chunk_latents)
        if not pictures:
            pictures = model_pictures(_folder("", signed=False))
            note(f"{folder} has no pictures: worlds start from those of the model in the package; --image starts from another one")
        listening = server.listen(host, port)
        player = server.Player(engine, pictures, fps, host, token, prompt, origin=origin, model=model or folder.name)
        print(f"open {server.address(host, listening.getsockname()[1], token, origin)} (Ctrl-C stops the server)", flush=True)
        try:
            status = server.serve(player, listening)
        finally:
            engine.close()
    raise SystemExit(status)


def _folder(model: str, signed: bool) -> Path:
    from moworld_ops.components.platform.registry import model_folder
    from moworld_ops.components.platform.verification import verified_folder

    return verified_folder(model) if signed else model_folder(model)


def pose_chunks(path: Path, chunk: int) -> list[Any]:
    """Returns camera-to-world matrices of the frames after the first, (chunk, 4, 4) each, in model units relative to the first.

    A remainder shorter than a chunk is omitted. Raises InputError if there is no whole chunk.
    """
    from moworld.camera import read_cameras, translation_scale

    cameras = read_cameras(path).relative_to(0)
    c2w = cameras.scaled(translation_scale(cameras.w2c)).c2w[1:]
    whole = len(c2w) // chunk * chunk
    if not whole:
        raise InputError(path, "poses", f"{len(c2w) + 1} poses", f"at least {chunk + 1}", "pass a longer camera path")
    return [c2w[start : start + chunk] for start in range(0, whole, chunk)]


def read_picture(path: Path) -> Any:
    """Returns an image, or a video's first frame, as (H, W, 3) uint8 RGB; raises InputError for anything else, before it is decoded."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    from moworld.inference.pictures import check_picture

    if not path.is_file():
        raise InputError(path, "", "no such file", "an image or a video", "check the path")
    try:
        with Image.open(path, formats=IMAGES) as image:
            check_picture(path, path.read_bytes(), image.width, image.height)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(path, "size", str(error).partition(",")[0], "an image of fewer pixels", "resize it") from None
    except UnidentifiedImageError:
        from moworld.video import read_frames

        return read_frames(path, 0, 1)[0]
    except OSError as error:
        raise InputError(path, "", f"a damaged image ({error})", "an image or a video", "save the image again") from None
