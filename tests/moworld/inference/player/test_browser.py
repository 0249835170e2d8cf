"""The page in a real browser: keys are pressed, frames are counted, the canvas shows the frames of the server."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from moworld.inference.player.server import Player
from moworld_ops.benchmarks.browser import CHROMIUM, browser_page, until
from tests.moworld.inference.worlds import picture, tiny_engine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
COLOURS = "(() => { const d = context.getImageData(0, 0, canvas.width, canvas.height).data; return [...d.slice(0, 400)] })()"
BOXES = "[...document.querySelectorAll('{}')].map(b => b.getBoundingClientRect()).map(r => [r.left, r.right, r.top, r.bottom])"


def visit(folder: Path, *steps: Callable[[Page], Coroutine[Any, Any, None]], **size: int) -> None:
    """Opens the page of a served tiny world once, by an address with a token, and runs the steps on it."""

    async def run() -> None:
        engine = tiny_engine(folder, max_sessions=1)
        player = Player(engine, [picture(16, 32), picture(16, 32, seed=1)], 24.0, token="sesame", recordings=folder)
        async with TestServer(player.application()) as served, browser_page(str(served.make_url("/?token=sesame")), **size) as page:
            await until(page, "drawn > 12")
            for step in steps:
                await step(page)
                assert not await page.page_errors()
        engine.close()

    asyncio.run(run())


def test_keys_pause_pictures_and_recordings_work_in_a_desktop_browser(tmp_path: Path) -> None:
    visit(tmp_path, keys_are_followed, pause_stops_the_world, another_picture_starts_another_world, a_recording_is_a_video, a_dropped_picture_starts_a_world)


async def keys_are_followed(page: Page) -> None:
    await page.keyboard.down("w")
    await until(page, "latencies.length === 1 && waiting.size === 0")  # a frame that follows the key was drawn
    await page.keyboard.up("w")
    await until(page, "latencies.length === 2")
    assert await page.evaluate("keysNumber") == 2
    await until(page, "element('interval').textContent.endsWith('ms') && element('attainment').textContent.endsWith('%')")
    await until(page, "element('latency').textContent.endsWith('ms') && Number(element('fps').textContent) > 1")


async def pause_stops_the_world(page: Page) -> None:
    await page.keyboard.press(" ")
    await until(page, "paused")
    await asyncio.sleep(1.0)  # chunks that are finished are still played
    held = await page.evaluate("drawn")
    await asyncio.sleep(0.5)
    assert await page.evaluate("drawn") <= held + 2
    await page.evaluate("element('pause').click()")
    await until(page, f"drawn > {held} + 10")


async def another_picture_starts_another_world(page: Page) -> None:
    assert await page.evaluate("[canvas.width, canvas.height]") == [32, 16]
    first = await page.evaluate(COLOURS)
    assert len(set(first)) > 10  # a picture, not a blank canvas
    await page.evaluate("drawn = 0; element('pictures').children[1].click()")
    await until(page, "picture === 1 && drawn > 5")
    assert await page.evaluate("element('pictures').children[1].className") == "chosen"
    assert await page.evaluate(COLOURS) != first


async def a_recording_is_a_video(page: Page) -> None:
    await page.evaluate("element('record').click()")
    start = await page.evaluate("drawn")
    await until(page, f"drawn > {start} + 20")
    await page.evaluate("element('record').click()")
    await until(page, "!element('recording').hidden")
    kind, size = await page.evaluate("fetch(element('recording').href).then(r => r.blob()).then(b => [b.type, b.size])")
    assert kind == "video/mp4" and size > 1000


async def a_dropped_picture_starts_a_world(page: Page) -> None:
    drop = """(async () => {
      const files = new DataTransfer();
      files.items.add(new File([await new Promise((done) => canvas.toBlob(done))], "own.png", { type: "image/png" }));
      dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
    })()"""
    assert await page.evaluate("picture") is not None
    await page.evaluate(drop)
    await until(page, "picture === null && drawn > 5")


def test_touch_pads_work_on_a_phone_in_both_orientations(tmp_path: Path) -> None:
    visit(tmp_path, upright_the_pads_send_keys, sideways_everything_is_in_view, width=390, height=844)


async def upright_the_pads_send_keys(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = await page.evaluate(BOXES.format("#pads button"))
    assert boxes
    assert all(left >= 0 and right <= 390 and min(right - left, bottom - top) >= 40 for left, right, top, bottom in boxes)
    before, (left, right, top, bottom) = await page.evaluate("keysNumber"), boxes[0]
    devtools = await page.context.new_cdp_session(page)  # playwright's own touchscreen only taps
    point = {"x": (left + right) / 2, "y": (top + bottom) / 2}
    await devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    await until(page, f"keysNumber === {before + 1} && keysSent !== ''")
    await devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    await until(page, f"keysNumber === {before + 2} && keysSent === ''")


async def sideways_everything_is_in_view(page: Page) -> None:
    await page.set_viewport_size({"width": 844, "height": 390})
    await until(page, "innerWidth === 844")
    boxes = await page.evaluate(BOXES.format("#pads button, #world"))
    assert all(left >= 0 and right <= 844 and top >= 0 and bottom <= 390 for left, right, top, bottom in boxes)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
