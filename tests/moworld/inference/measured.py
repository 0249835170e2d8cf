"""Measures the peak memory of serving in its own process.

`make FOLDER KIND` writes a model; `run FOLDER BUDGET|resident|quantize` prints JSON.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from moworld.inference.quantization import QuantizeSettings, load_quantized, quantize_experts
from moworld.inference.residency import load_on_demand
from moworld.inference.session import WorldSession
from moworld.model.text import TextSettings, make_text_encoder
from moworld.model.weights import WEIGHTS, release_memory
from moworld.model.world import ModelSettings, WorldConfig, WorldModel
from tests.moworld.inference.worlds import Letters, picture, served_world

SIZES = {"num_layers": 4, "num_attention_heads": 12, "attention_head_dim": 64, "ffn_dim": 3072, "text_dim": 384, "camera_gate": 1.0}


def make(folder: str, kind: str) -> None:
    """Writes two experts of 0.2 GB (float32) and a codec."""
    with tempfile.TemporaryDirectory() as codec:
        config = served_world(Path(codec)).config
        layers = {"num_layers": 4 if kind == "float32" else 24}
        config = WorldConfig(
            model=ModelSettings(**SIZES | layers), text=TextSettings(kind="minilm", length=16), height=64, width=96, fps=config.fps
        )
        world = WorldModel.create(config, 0)
        world.codec_folder = Path(codec)
        if kind == "int8":
            quantize_experts(world, QuantizeSettings())
        world.save(folder)
        if kind == "bfloat16":
            for path in Path(folder).glob(f"transformer*/{WEIGHTS}"):
                save_file({key: value.bfloat16() for key, value in load_file(path).items()}, path)


def run(folder: str, budget: str) -> None:
    """Runs three chunks; the peak is counted after every library has been used once in a tiny world."""
    with tempfile.TemporaryDirectory() as codec:
        tiny = WorldSession(served_world(Path(codec)), Letters())
        tiny.open(picture())
        tiny.step("w*12")
        make_text_encoder(TextSettings(kind="minilm", length=16)).encode(["a hall"])
    del tiny
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    whole = {"resident": WorldModel.load, "quantize": lambda folder: load_quantized(folder)[0]}
    session = WorldSession(whole[budget](folder) if budget in whole else load_on_demand(folder, int(budget)))
    frames = [session.open(picture(64, 96), "a hall"), *(session.step("wl*12") for _ in range(3))]
    digest = hashlib.sha256(b"".join(part.tobytes() for part in frames)).hexdigest()
    print(json.dumps({"peak_bytes": _status("VmHWM") - before, "frames": digest}))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](*sys.argv[2:])
