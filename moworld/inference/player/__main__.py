"""The player by itself, for images that hold no command line: python -m moworld.inference.player MODEL --host 0.0.0.0."""

import argparse
import os
import sys
from pathlib import Path

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.loading import serving_world
from moworld.inference.player import server
from moworld.model.world import WorldModel


def main(argv: list[str]) -> int:
    """Serve a model folder until the process is told to end. The token comes from MOWORLD_PLAY_TOKEN."""
    parser = argparse.ArgumentParser(prog="python -m moworld.inference.player", description=__doc__)
    parser.add_argument("model", type=Path, help="a model folder with pictures to start from")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8800)
    parser.add_argument("--sessions", type=int, default=2, help="visitors at once")
    parser.add_argument("--memory", default="", help="keep within this much memory, e.g. 2GB")
    parser.add_argument("--quantize", action="store_true", help="convert a model in full precision to INT8 while it is loaded")
    parser.add_argument("--fps", type=float, default=30.0)
    asked = parser.parse_args(argv)
    token = os.environ.get("MOWORLD_PLAY_TOKEN", "")
    try:
        if asked.host not in server.LOOPBACK and not token:
            raise InputError("MOWORLD_PLAY_TOKEN", "", "nothing", "a token, since others can reach this address", "set it")
        with serving_world(asked.model, asked.memory, asked.quantize) as world:
            if world is not None:  # a rank that helped another has done its work
                _serve(world, asked, token)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _serve(world: WorldModel, asked: argparse.Namespace, token: str) -> None:
    pictures = server.pictures_of(asked.model)
    if not pictures:
        raise InputError(asked.model, "pictures", "none", "at least one PNG to start from", "put some into the model's folder pictures/")
    listening = server.listen(asked.host, asked.port)
    engine = Engine(world, asked.sessions)
    print(f"listening on {asked.host}:{listening.getsockname()[1]}", flush=True)
    try:
        server.serve(server.Player(engine, pictures, asked.fps, asked.host, token), listening)
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
