"""The shipped model: small, complete, and the view turns with the keys."""

import asyncio
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from moworld.inference import WorldSession
from moworld.inference.engine import Engine
from moworld.inference.pictures import model_pictures
from moworld.inference.player.server import Player
from moworld.model.world import WorldModel
from moworld_ops.benchmarks.browser import CHROMIUM, browser_page, until
from moworld_ops.components.platform.registry import SHIPPED, model_folder


def test_it_is_the_default_small_int8_and_has_a_card() -> None:
    assert model_folder("") == SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= 12e6
    assert WorldModel.load(SHIPPED).config.quantization == "w8a8"
    card = (SHIPPED / "README.md").read_text()
    assert all(word in card for word in ("contract", "seed", "held-out", "moworld run"))
    assert model_pictures(SHIPPED)


def horizontal_flow(frames: list[np.ndarray]) -> float:
    """Returns the mean motion to the right, in pixels per frame."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairwise(grey)]
    return float(np.mean([flow[..., 0] for flow in flows]))


def test_the_picture_moves_against_the_turn() -> None:
    session = WorldSession(WorldModel.load(SHIPPED))
    moved = {"j": list[float](), "l": list[float]()}
    for picture in model_pictures(SHIPPED)[::2]:
        for key, found in moved.items():
            session.open(picture, seed=0)
            frames = [frame for _ in range(2) for frame in session.step(f"{key}*12")]
            found.append(horizontal_flow(frames))
    assert np.mean(moved["j"]) > 0 > np.mean(moved["l"])  # turning left moves the picture to the right


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_that_holds_a_key_sees_the_world_turn(tmp_path: Path) -> None:
    grab = "[...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 < 3)"

    async def run() -> dict[str, float]:
        engine = Engine(WorldModel.load(SHIPPED), max_sessions=1)
        player, flows = Player(engine, model_pictures(SHIPPED), 24.0, recordings=tmp_path), dict[str, float]()
        async with TestServer(player.application()) as served, browser_page(str(served.make_url("/"))) as page:
            await until(page, "element('pictures').children.length > 0")
            for key in ("j", "l"):
                await page.evaluate("drawn = 0; element('pictures').children[0].click()")
                await until(page, "drawn > 1")
                await page.keyboard.down(key)
                await until(page, "waiting.size === 0 && latencies.length > 0")
                frames = []
                for _ in range(8):
                    seen = await page.evaluate("drawn")
                    frames.append(np.array(await page.evaluate(grab), np.uint8).reshape(64, 96, 3))
                    await until(page, f"drawn > {seen}")
                await page.keyboard.up(key)
                flows[key] = horizontal_flow(frames)
            await page.screenshot(path=tmp_path / "page.png")
        engine.close()
        return flows

    flows = asyncio.run(run())
    assert flows["j"] > flows["l"]
