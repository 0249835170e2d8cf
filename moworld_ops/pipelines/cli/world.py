"""CLI command `play` (a world in the browser), and the options and the model that it shares with `rollout`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from moworld_ops.pipelines.cli.inputs import read_picture
from moworld_ops.pipelines.cli.layout import option
from moworld_ops.pipelines.cli.output import note


class Backend(StrEnum):
    auto = "auto"
    torch = "torch"
    openvino = "openvino"


MODEL, SERVER = "Model", "Server"
Model = Annotated[str, option("A model directory, or a registered NAME@ALIAS; default: the model in the package.", panel=MODEL)]
Memory = Annotated[str, option("Memory budget, as in 2GB: modules are loaded when they are needed.", metavar="SIZE", panel=MODEL)]
Quantize = Annotated[bool, option("Convert a full-precision model to INT8 while it is loaded.", "--quantize", panel=MODEL)]
BACKEND = option("What denoises on a CPU: auto times a chunk on each, once for each model and machine.", "--backend", panel=MODEL)
By = Annotated[Backend, BACKEND]
SIGNED = option("Accept only a model with a valid signature.", "--require-signature", envvar="MOWORLD_REQUIRE_SIGNATURE", panel=MODEL)
Signed = Annotated[bool, SIGNED]
Device = Annotated[str, option("PyTorch device, such as cpu or cuda:1; default: this machine's accelerator.", panel=MODEL)]
Prompt = Annotated[str, option("Description of the scene.")]


def print_memory_plan(world: Any) -> None:
    """Prints on stderr when each module is loaded, for a world within a memory budget."""
    if (residency := getattr(world.denoiser, "residency", None)) is not None:
        for line in residency.plan.lines():
            note(line)


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
    from functools import partial

    from moworld.inference.engine import Engine
    from moworld.inference.loading import serving_world
    from moworld.inference.pictures import model_pictures
    from moworld.inference.player import server
    from moworld.inference.player.recorder import Origins
    from moworld.inference.threads import denoising_workers
    from moworld_ops.components.platform.content_credentials import embedder
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.provenance import identify_model, signer

    folder, chunk_latents = served_folder(model, require_signature), 1 if low_latency else None
    pictures = ([read_picture(image)] if image else []) + model_pictures(folder)
    origin = server.check_origin(origin)
    if (host not in server.LOOPBACK or origin) and not token:
        token = secrets.token_urlsafe(24)
    with serving_world(folder, memory, quantize, chunk_latents, device, backend.value, home() / "openvino", note) as world:
        if world is None:  # a rank that only computes its share
            return
        print_memory_plan(world)
        engine = Engine(world, sessions, chunk_latents=chunk_latents, workers=denoising_workers(world))
        if not pictures:
            pictures = model_pictures(served_folder("", signed=False))
            note(f"{folder} has no pictures: worlds start from those of the model in the package; --image starts from another one")
        listening = server.listen(host, port)
        origins = Origins(partial(identify_model, model, folder), signer(), quantize, embedder())
        player = server.Player(engine, pictures, fps, host, token, prompt, origin=origin, model=model or folder.name, origins=origins)
        print(f"open {server.address(host, listening.getsockname()[1], token, origin)} (Ctrl-C stops the server)", flush=True)
        try:
            status = server.serve(player, listening)
        finally:
            engine.close()
    raise SystemExit(status)


def served_folder(model: str, signed: bool) -> Path:
    """Returns the model folder of --model. Raises InputError if there is none, or if `signed` and it has no valid signature."""
    from moworld_ops.components.platform.registry import model_folder
    from moworld_ops.components.platform.verification import verified_folder

    return verified_folder(model) if signed else model_folder(model)
