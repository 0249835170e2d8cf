"""The model that comes along: small enough, whole, and it turns where it is told to."""

import asyncio
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from components.platform.registry import SHIPPED, model_folder
from moworld.evaluation.browser import CHROMIUM, browser
from moworld.inference import WorldSession
from moworld.inference.engine import Engine
from moworld.inference.player.server import Player, pictures_of
from moworld.model.world import WorldModel


def test_it_is_the_default_and_small_and_int8_with_a_card() -> None:
    assert model_folder("") == SHIPPED
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= 12e6
    assert WorldModel.load(SHIPPED).config.quantization == "w8a8"
    card = (SHIPPED / "README.md").read_text()
    assert all(word in card for word in ("contract", "seed", "held-out", "moworld run"))
    assert pictures_of(SHIPPED)


def horizontal_flow(frames: list[np.ndarray]) -> float:
    """Mean motion of the picture to the right, in pixels a frame."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in pairwise(grey)]
    return float(np.mean([flow[..., 0] for flow in flows]))


def test_the_picture_moves_against_the_turn() -> None:
    session = WorldSession(WorldModel.load(SHIPPED))
    moved = {"j": list[float](), "l": list[float]()}
    for picture in pictures_of(SHIPPED):
        for key, found in moved.items():
            session.open(picture, seed=0)
            frames = [frame for _ in range(2) for frame in session.step(f"{key}*12")]
            found.append(horizontal_flow(frames))
    assert np.mean(moved["j"]) > 0 > np.mean(moved["l"])  # to the left: the world moves to the right


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_that_holds_a_key_sees_the_world_turn(tmp_path: Path) -> None:
    grab = "[...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 < 3)"

    async def run() -> dict[str, float]:
        engine = Engine(WorldModel.load(SHIPPED), max_sessions=1)
        player, flows = Player(engine, pictures_of(SHIPPED), 24.0, recordings=tmp_path), dict[str, float]()
        async with TestServer(player.application()) as served, browser(tmp_path / "profile") as page:
            await page.open(str(served.make_url("/")))
            await page.until("element('pictures').children.length > 0")  # the page asks the server for them
            for key in ("j", "l"):
                await page.evaluate("drawn = 0; element('pictures').children[0].click()")
                await page.until("drawn > 1")
                await page.key(key, True)
                await page.until("waiting.size === 0 && latencies.length > 0")
                frames = []
                for _ in range(8):
                    seen = await page.evaluate("drawn")
                    frames.append(np.array(await page.evaluate(grab), np.uint8).reshape(64, 96, 3))
                    await page.until(f"drawn > {seen}")
                await page.key(key, False)
                flows[key] = horizontal_flow(frames)
            await page.screenshot(tmp_path / "page.png")
        engine.close()
        return flows

    flows = asyncio.run(run())
    assert flows["j"] > flows["l"]
