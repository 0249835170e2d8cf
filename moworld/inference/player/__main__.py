"""Serves the player without the command line, for images: python -m moworld.inference.player MODEL --host 0.0.0.0."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.inference.engine import Engine
from moworld.inference.loading import serving_world
from moworld.inference.pictures import model_pictures
from moworld.inference.player import server
from moworld.inference.player.recorder import Origins
from moworld.inference.provenance import ModelIdentity
from moworld.inference.threads import denoising_workers


def main(argv: list[str]) -> int:
    """Serves a model folder until SIGINT or SIGTERM; returns 130, 143, or 2 for wrong use. MOWORLD_PLAY_TOKEN holds the token."""
    parser = argparse.ArgumentParser(prog="python -m moworld.inference.player", description=__doc__)
    parser.add_argument("model", type=Path, help="model folder with pictures to start from")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8800)
    parser.add_argument("--sessions", type=int, default=2, help="maximum number of visitors")
    parser.add_argument("--memory", default="", help="memory budget, e.g. 2GB")
    parser.add_argument("--quantize", action="store_true", help="convert a full-precision model to INT8 while it is loaded")
    parser.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto", help="what denoises on a CPU")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--origin", default="", help="address of the proxy with TLS in front, e.g. https://world.example")
    options, token = parser.parse_args(argv), os.environ.get("MOWORLD_PLAY_TOKEN", "")
    try:
        origin = server.check_origin(options.origin)
        if (options.host not in server.LOOPBACK or origin) and not token:
            raise InputError("MOWORLD_PLAY_TOKEN", "", "nothing", "a token, since others can reach this address", "set it")
        home = os.environ.get("MOWORLD_HOME")
        cache, note = Path(home, "openvino") if home else None, partial(print, file=sys.stderr, flush=True)
        with serving_world(options.model, options.memory, options.quantize, backend=options.backend, cache=cache, report=note) as world:
            if world is None:  # a helper rank that is done
                return 0
            pictures = model_pictures(options.model)
            if not pictures:
                raise InputError(options.model, "pictures", "none", "at least one PNG to start from", "put one into the folder pictures/")
            listening = server.listen(options.host, options.port)
            engine = Engine(world, options.sessions, workers=denoising_workers(world))
            print(f"listening on {options.host}:{listening.getsockname()[1]}", flush=True)
            try:
                origins = Origins(lambda: ModelIdentity(sha256=sha256_tree(options.model)), quantized=options.quantize)
                player = server.Player(engine, pictures, options.fps, options.host, token, origin=origin, model=options.model.name, origins=origins)
                return server.serve(player, listening)
            finally:
                engine.close()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
