"""The page in a real browser: keys are pressed, frames are counted, what the page shows is what the server sent."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from moworld.evaluation.browser import CHROMIUM, Page, browser
from moworld.inference.player.server import Player
from tests.moworld.inference.worlds import picture, tiny_engine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FPS = 24.0
Drive = Callable[[Page], Coroutine[Any, Any, None]]


def drive(folder: Path, driven: Drive, **size: int) -> None:
    async def run() -> None:
        engine = tiny_engine(folder, max_sessions=1)
        player = Player(engine, [picture(16, 32), picture(16, 32, seed=1)], FPS, recordings=folder)
        async with TestServer(player.application()) as served, browser(folder / "profile") as page:
            await page.open(str(served.make_url("/")), **size)
            await page.until("drawn > 12")
            await driven(page)
            assert not page.errors
        engine.close()

    asyncio.run(run())


def test_keys_steer_pause_holds_and_the_numbers_live(tmp_path: Path) -> None:
    async def driven(page: Page) -> None:
        await page.key("w", True)
        await page.until("latencies.length === 1 && waiting.size === 0")  # a frame came that obeyed the key
        await page.key("w", False)
        await page.until("latencies.length === 2")
        assert await page.evaluate("keysNumber") == 2
        await page.evaluate("drawnAt.length = 0")
        before, _ = await page.evaluate("drawn"), await asyncio.sleep(2)
        rate = (await page.evaluate("drawn") - before) / 2
        assert 0.5 * FPS < rate < 1.3 * FPS
        await page.until("element('interval').textContent.endsWith('ms') && element('attainment').textContent.endsWith('%')")
        assert await page.evaluate("element('latency').textContent.endsWith('ms') && Number(element('fps').textContent) > 1")
        await page.key(" ", True)
        await page.key(" ", False)
        await page.until("paused")
        await asyncio.sleep(0.5)
        held = await page.evaluate("drawn")
        await asyncio.sleep(0.5)
        assert await page.evaluate("drawn") <= held + 2
        await page.evaluate("element('pause').click()")
        await page.until(f"drawn > {held} + 10")

    drive(tmp_path, driven)


def test_the_canvas_shows_the_frames_and_another_picture_starts_another_world(tmp_path: Path) -> None:
    colours = "(() => { const d = context.getImageData(0, 0, canvas.width, canvas.height).data; return [...d.slice(0, 400)] })()"

    async def driven(page: Page) -> None:
        assert await page.evaluate("[canvas.width, canvas.height]") == [32, 16]
        first = await page.evaluate(colours)
        assert len(set(first)) > 10  # a picture, not a blank canvas
        await page.evaluate("drawn = 0; element('pictures').children[1].click()")
        await page.until("picture === 1 && drawn > 5")
        assert await page.evaluate("element('pictures').children[1].className") == "chosen"
        assert await page.evaluate(colours) != first

    drive(tmp_path, driven)


def test_a_recording_is_offered_and_is_a_video(tmp_path: Path) -> None:
    async def driven(page: Page) -> None:
        await page.evaluate("element('record').click()")
        begun = await page.evaluate("drawn")
        await page.until(f"drawn > {begun} + 20")
        await page.evaluate("element('record').click()")
        await page.until("!element('recording').hidden")
        size = await page.evaluate("fetch(element('recording').href).then(r => r.blob()).then(b => [b.type, b.size])")
        assert size[0] == "video/mp4" and size[1] > 1000

    drive(tmp_path, driven)


def test_on_a_phone_the_pads_are_there_and_nothing_is_cut_off(tmp_path: Path) -> None:
    async def driven(page: Page) -> None:
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = await page.evaluate(
            "[...document.querySelectorAll('#pads button')].map(b => { const r = b.getBoundingClientRect(); return [r.left, r.right, r.width, r.height] })"
        )
        assert boxes and all(left >= 0 and right <= 390 and min(width, height) >= 40 for left, right, width, height in boxes)
        before = await page.evaluate("keysNumber")
        left, right, _, height = boxes[0]
        top = await page.evaluate("document.querySelector('#pads button').getBoundingClientRect().top")
        await page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": (left + right) / 2, "y": top + height / 2}])
        await page.until(f"keysNumber === {before + 1} && keysSent !== ''")
        await page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        await page.until(f"keysNumber === {before + 2} && keysSent === ''")

    drive(tmp_path, driven, width=390, height=844)


def test_on_a_phone_held_sideways_the_pads_lie_beside_the_picture(tmp_path: Path) -> None:
    boxes = "[...document.querySelectorAll('#pads button, #world')].map(b => { const r = b.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom] })"

    async def driven(page: Page) -> None:
        await page.call("Emulation.setDeviceMetricsOverride", width=844, height=390, deviceScaleFactor=1, mobile=True)
        await page.until("innerWidth === 844")
        assert all(left >= 0 and right <= 844 and top >= 0 and bottom <= 390 for left, right, top, bottom in await page.evaluate(boxes))
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    drive(tmp_path, driven, width=390, height=844)
