"""Doors `moworld rollout`, a picture and controls to a video, and `moworld play`, a world in the browser."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from pipelines.cli.output import Json, err, out, print_json

Memory = Annotated[str, typer.Option(help="Keep within this much memory, e.g. 2GB: modules are loaded when they are needed.")]
Quantize = Annotated[bool, typer.Option("--quantize", help="Convert a model in full precision to INT8 while it is loaded.")]
Model = Annotated[str, typer.Option(help="A model folder, or a registered NAME@ALIAS; without one the model that comes with MoWorld.")]

Signed = Annotated[
    bool,
    typer.Option("--require-signature", envvar="MOWORLD_REQUIRE_SIGNATURE", help="Take no model but a signed one that is what was signed."),
]


def rollout(
    image: Annotated[Path, typer.Option(help="The first frame: a picture, or a video whose first frame is taken.")],
    to: Annotated[Path, typer.Option("--out", help="The video to write.")],
    model: Model = "",
    actions: Annotated[str, typer.Option(help='Keys and counts: w a s d move, i k pitch, j l yaw, as "w*48,d*24".')] = "w*48",
    poses: Annotated[Path | None, typer.Option(help="A camera file instead of actions.")] = None,
    prompt: Annotated[str, typer.Option(help="What the scene is.")] = "",
    seed: int = 0,
    require_signature: Signed = False,
    memory: Memory = "",
    quantize: Quantize = False,
    json: Json = False,
) -> None:
    """Roll a world out along controls or camera poses, and write the video. Under torchrun its ranks share the work: the last one decodes.

    Example: moworld rollout --model moworld-pocket@champion --image first.png --actions "w*48,l*24" --out world.mp4
    """
    from moworld.inference.loading import serving_world

    folder, first = _folder(model, require_signature), read_picture(image)
    with serving_world(folder, memory, quantize) as world:
        if world is None:  # a rank that helped another
            return
        _explain(world)
        facts = {**_roll_out(world, first, actions, poses, prompt, seed, to), "model": str(folder)}
    if json:
        print_json(facts)
    else:
        out.print(f"{to}: {facts['frames']} frames in {facts['seconds']:.1f} s ({facts['fps']:.1f} frames a second)", soft_wrap=True)


def _explain(world: Any) -> None:
    """Which modules stay in memory, where there is a budget."""
    if (residency := getattr(world, "residency", None)) is not None:
        for line in residency.plan.lines():
            err.print(line, soft_wrap=True)


def _roll_out(world: Any, first: Any, actions: str, poses: Path | None, prompt: str, seed: int, to: Path) -> dict[str, Any]:
    """Write the video, and say how it went."""
    import time

    from rich.progress import track

    from moworld.inference import WorldSession
    from moworld.inference.session import stream
    from moworld.video import write_video

    session = WorldSession(world)
    chunk = session.chunk_frames
    if poses is None:
        chunks = [(session.denoise, part) for part in key_chunks(actions, chunk)]
    else:
        chunks = [(session.denoise_poses, part) for part in pose_chunks(poses, chunk)]
    frames = list(session.open(first, prompt=prompt, seed=seed))
    started = time.perf_counter()
    for part in track(stream(session, chunks), "rollout", total=len(chunks), console=err, transient=True):
        frames.extend(part)
    seconds = time.perf_counter() - started
    count = write_video(to, frames, world.config.fps)
    return {"video": str(to), "frames": count, "seconds": seconds, "fps": (count - 1) / seconds}


def play(
    model: Model = "",
    image: Annotated[Path | None, typer.Option(help="A picture to start from, before those that come with the model.")] = None,
    prompt: Annotated[str, typer.Option(help="What the scene is.")] = "",
    host: Annotated[str, typer.Option(help="The address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8800,
    token: Annotated[
        str, typer.Option(envvar="MOWORLD_PLAY_TOKEN", help="What visitors must know; made for you where one is needed.")
    ] = "",
    fps: Annotated[float, typer.Option(min=1, max=120, help="Frames a second to play at.")] = 30.0,
    sessions: Annotated[int, typer.Option(min=1, max=64, help="Visitors at once.")] = 2,
    low_latency: Annotated[bool, typer.Option("--low-latency", help="Chunks of one latent frame: keys are obeyed sooner.")] = False,
    require_signature: Signed = False,
    memory: Memory = "",
    quantize: Quantize = False,
) -> None:
    """Walk through a world in the browser: W A S D, arrow keys, touch or a gamepad. Under torchrun its ranks share the work.

    Example: moworld play --model moworld-pocket@champion
    """
    from moworld.evaluation.speed import example_picture
    from moworld.inference.engine import Engine
    from moworld.inference.loading import serving_world
    from moworld.inference.player import server

    folder, chunk_latents = _folder(model, require_signature), 1 if low_latency else None
    pictures = ([read_picture(image)] if image else []) + server.pictures_of(folder)
    if host not in server.LOOPBACK and not token:
        token = server.new_token()
    with serving_world(folder, memory, quantize, chunk_latents) as world:
        if world is None:  # a rank that helped another
            return
        _explain(world)
        engine = Engine(world, sessions, chunk_latents=chunk_latents)
        pictures = pictures or [example_picture(world.config.height, world.config.width)]
        player = server.Player(engine, pictures, fps, host, token, prompt)
        listening = server.listen(host, port)
        out.print(f"open {server.address(host, listening.getsockname()[1], token)} (Ctrl-C ends it)", soft_wrap=True)
        try:
            server.serve(player, listening)
        finally:
            engine.close()


def _folder(model: str, signed: bool) -> Path:
    from components.platform.registry import model_folder
    from components.platform.verification import verified_folder

    return verified_folder(model) if signed else model_folder(model)


def key_chunks(actions: str, chunk: int) -> list[Any]:
    """The keys of every frame, a chunk at a time; the last chunk is filled up with no key."""
    from moworld.camera import parse_controls

    keys = ["".join(sorted(key)) for key in parse_controls(actions)]
    keys += [""] * (-len(keys) % chunk)
    return [keys[start : start + chunk] for start in range(0, len(keys), chunk)]


def pose_chunks(path: Path, chunk: int) -> list[Any]:
    """Camera to world of the frames after the first one, (chunk, 4, 4) each, in model units relative to the first; a rest is left away."""
    from moworld.camera import read_cameras, translation_scale

    cameras = read_cameras(path).relative_to(0)
    c2w = cameras.scaled(translation_scale(cameras.w2c)).c2w[1:]
    whole = len(c2w) // chunk * chunk
    if not whole:
        raise InputError(path, "poses", f"{len(c2w) + 1} poses", f"at least {chunk + 1}", "pass a longer camera path")
    return [c2w[start : start + chunk] for start in range(0, whole, chunk)]


def read_picture(path: Path) -> Any:
    """(H, W, 3) uint8 RGB from a picture or a video's first frame. Raises InputError for anything else."""
    import cv2

    if not path.is_file():
        raise InputError(path, "", "no such file", "a picture or a video", "check the path")
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is not None:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    from moworld.video import read_frames

    return read_frames(path, 0, 1)[0]
