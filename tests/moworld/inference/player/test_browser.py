"""The page in a real browser: keys are pressed, frames are counted, the canvas shows the frames of the server."""

import asyncio
import contextlib
import io
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp.test_utils import TestServer
from PIL import Image
from playwright.async_api import Page

from moworld.inference.player.server import Player
from moworld_ops.benchmarks.browser import CHROMIUM, browser_page, until
from tests.moworld.inference.worlds import picture, tiny_engine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
NAME = "world.localhost"  # a browser resolves it to loopback; the player does not know it as such
COLOURS = "(() => { const d = context.getImageData(0, 0, canvas.width, canvas.height).data; return [...d.slice(0, 400)] })()"
BOXES = "[...document.querySelectorAll('{}')].map(b => b.getBoundingClientRect()).map(r => [r.left, r.right, r.top, r.bottom])"


def public_address() -> str:
    """Returns an address of this machine other than loopback; loopback if it has none."""
    found = [one.address for all_of in psutil.net_if_addrs().values() for one in all_of if one.family == socket.AF_INET]
    return next((one for one in found if not one.startswith("127.")), "127.0.0.1")


def visit(folder: Path, *steps: Callable[[Page], Coroutine[Any, Any, None]], **size: int) -> None:
    """Opens the page of a served tiny world once, from another address than loopback with a token, and runs the steps on it."""

    async def run() -> None:
        engine = tiny_engine(folder, max_sessions=1)
        player = Player(engine, [picture(16, 32), picture(16, 32, seed=1)], 24.0, "0.0.0.0", token="sesame", recordings=folder, model="tiny")
        served = TestServer(player.application(), host=public_address())
        async with served, browser_page(str(served.make_url("/?token=sesame")), **size) as page:
            await until(page, "drawn > 12")
            for step in steps:
                await step(page)
                assert not await page.page_errors()
        engine.close()

    asyncio.run(run())


def test_keys_pause_pictures_and_recordings_work_in_a_desktop_browser(tmp_path: Path) -> None:
    steps = (
        everything_is_in_view, keys_are_followed, pause_stops_the_world, another_picture_starts_another_world, six_quick_clicks_play_the_last,
        a_recording_is_a_video, the_mouse_and_a_gamepad_steer, fullscreen_begins_and_ends, drift_is_shown_until_the_visitor_answers,
        errors_stay_visible, the_keyboard_alone_reaches_everything, a_dropped_picture_starts_a_world,
        a_reload_goes_on_with_the_same_walk,
    )  # fmt: skip
    visit(tmp_path, *steps, width=1366, height=768)


async def everything_is_in_view(page: Page) -> None:
    visible = "[...document.querySelectorAll('button, input, canvas, .help, dd')].filter(e => e.checkVisibility())"
    boxes = await page.evaluate(f"{visible}.map(e => e.getBoundingClientRect()).map(r => [r.left, r.right, r.top, r.bottom])")
    assert len(boxes) > 15 and all(left >= 0 and right <= 1366 and top >= 0 and bottom <= 768 for left, right, top, bottom in boxes)
    assert await page.evaluate("document.querySelectorAll('h1').length") == 1
    assert await page.evaluate("document.querySelectorAll('[aria-hidden=true] button, [aria-hidden=true] input').length") == 0
    assert "look up" not in await page.evaluate("document.querySelector('.help').innerText")  # the tiny model has not learned it
    assert await page.evaluate("document.querySelector('[data-keys=i]')") is None


async def six_quick_clicks_play_the_last(page: Page) -> None:
    await page.evaluate("for (let n = 0; n < 6; n++) { element('seed').value = n; element('pictures').children[n % 2].click(); }")
    await until(page, "drawn > 5")
    assert await page.evaluate("[picture, element('pictures').children[1].className, element('problem').hidden]") == [1, "chosen", True]
    await until(page, "location.hash.includes('seed=5') && location.hash.includes('picture=1')")


async def errors_stay_visible(page: Page) -> None:
    await page.set_input_files("#upload", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"})
    await until(page, "element('reason').textContent.includes('send a JPEG, PNG or WebP')")
    await page.set_input_files("#upload", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": bytes(7 * 2**20)})
    await until(page, "element('reason').textContent.includes('at most 6 MiB')")
    start = await page.evaluate("drawn")
    await until(page, f"drawn > {start} + 24")  # frames of the world that goes on do not hide it
    assert await page.evaluate("element('problem').checkVisibility()")
    await page.evaluate("element('dismiss').click()")
    assert not await page.evaluate("element('problem').checkVisibility()")


async def the_keyboard_alone_reaches_everything(page: Page) -> None:
    await page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.id || document.activeElement.dataset.picture || document.activeElement.tagName"))
    assert {"pause", "reset", "record", "mouse", "fullscreen", "share", "upload", "prompt", "seed", "open", "0", "1"} <= reached
    unnamed = "[...document.querySelectorAll('button, input')].filter(e => !(e.innerText || e.ariaLabel || e.labels?.length || e.querySelector('img[alt]')))"
    assert await page.evaluate(f"{unnamed}.map(e => e.outerHTML)") == []


async def a_reload_goes_on_with_the_same_walk(page: Page) -> None:
    await page.evaluate("element('prompt').value = 'a hall'; element('seed').value = 9; element('open').click()")
    await page.keyboard.down("w")
    await until(page, "walk.includes('w*') && location.hash.includes('walk=')")
    await page.keyboard.up("w")
    await page.evaluate("element('share').click()")
    link = await page.evaluate("element('link').value")
    assert "sesame" not in link and all(part in link for part in ("model=tiny", "picture=own", "seed=9", "prompt=a+hall", "w*"))
    before = await page.evaluate("drawn")
    await page.reload()
    await until(page, f"drawn > {before}")  # the numbers of the frames go on
    assert await page.evaluate("[element('prompt').value, element('seed').value, picture]") == ["a hall", "9", None]


def test_without_a_token_a_place_is_taken_by_a_deed_and_a_restarted_server_makes_the_walk_again(tmp_path: Path) -> None:
    async def run() -> None:
        pictures = [picture(16, 32), picture(16, 32, seed=1)]
        engine, other = tiny_engine(tmp_path, max_sessions=1), tiny_engine(tmp_path, max_sessions=1)
        served = TestServer(Player(engine, pictures, 24.0, recordings=tmp_path).application())
        await served.start_server()
        async with browser_page(str(served.make_url("/"))) as page:
            await until(page, "element('pictures').children.length === 2 && !element('enter').hidden")
            await asyncio.sleep(0.5)
            assert engine.sessions == 0
            await page.keyboard.down("w")
            await until(page, "drawn > 12 && walk.includes('w*')")
            await page.keyboard.up("w")
            await page.evaluate("element('pictures').children[1].click()")
            await page.keyboard.down("l")
            await until(page, "walk.includes('l*')")
            await page.keyboard.up("l")
            walk, port = await page.evaluate("walk"), served.port
            await served.close()
            await until(page, "element('notice').textContent.includes('trying again')")
            restarted = TestServer(Player(other, pictures, 24.0, recordings=tmp_path).application(), port=port)
            await restarted.start_server()
            await until(page, f"hello && drawn > 20 && walk.startsWith({walk.rpartition(',')[0]!r})")
            assert await page.evaluate("picture") == 1 and not await page.page_errors()
            await restarted.close()
        engine.close()
        other.close()

    asyncio.run(run())


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
    assert await page.evaluate("element('origin').hidden")  # this server writes no records
    kind, size = await page.evaluate("fetch(element('recording').href).then(r => r.blob()).then(b => [b.type, b.size])")
    assert kind == "video/mp4" and size > 1000


async def the_mouse_and_a_gamepad_steer(page: Page) -> None:
    await page.click("#mouse")
    await until(page, "document.pointerLockElement === canvas")
    await page.evaluate("sent = []; sending = send; send = (message) => { sent.push(message.keys ?? ''); sending(message); }; 0")
    await page.mouse.move(500, 300)
    await page.mouse.move(600, 300)  # a movement to the right turns right, and ends by itself
    await until(page, "sent.includes('l') && keysSent === ''")
    await page.evaluate("document.exitPointerLock()")
    await until(page, "document.pointerLockElement === null")
    pad = "stick = [0, -1, 0.9, 0]; navigator.getGamepads = () => [null, { axes: stick, buttons: [] }]; dispatchEvent(new Event('gamepadconnected'))"
    await page.evaluate(pad)
    await until(page, "keysSent === 'lw'")
    await page.evaluate("stick = [0.1, 0.2, 0, 0]")  # within the dead zone
    await until(page, "keysSent === ''")


async def fullscreen_begins_and_ends(page: Page) -> None:
    await page.click("#fullscreen")
    await until(page, "document.fullscreenElement === element('view')")
    await page.keyboard.press("f")
    await until(page, "document.fullscreenElement === null")


async def drift_is_shown_until_the_visitor_answers(page: Page) -> None:
    report = "socket.onmessage({{ data: JSON.stringify({{ type: 'numbers', chunk_interval_ms: 1, deadline_attainment: 1, frames: 0, drift: {} }}) }})"
    shown = "element('drifted').checkVisibility()"
    drifted = report.format(1.2)
    assert await page.evaluate(f"{drifted}; {shown}")
    assert "no longer looks like its first picture" in await page.evaluate("element('drifted').innerText")
    await page.evaluate("element('hold').click()")
    assert await page.evaluate(f"paused && !{shown}") and not await page.evaluate(f"{drifted}; {shown}"), "the visitor has seen it"
    await page.evaluate("element('pause').click()")
    assert await page.evaluate(f"{report.format(0.2)}; {drifted}; {shown}"), "it drifted again"
    before = await page.evaluate("drawn")
    await page.evaluate("element('again').click()")
    await until(page, f"drawn > 5 && drawn < {before} && !{shown}")


async def a_dropped_picture_starts_a_world(page: Page) -> None:
    drop = """(async () => {
      const files = new DataTransfer();
      files.items.add(new File([await new Promise((done) => canvas.toBlob(done))], "own.png", { type: "image/png" }));
      dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
    })()"""
    assert await page.evaluate("picture") is not None
    await page.evaluate(drop)
    await until(page, "picture === null && drawn > 5")


def test_behind_a_proxy_with_tls_the_page_plays_and_other_names_are_refused(tmp_path: Path) -> None:
    async def run() -> None:
        engine = tiny_engine(tmp_path, max_sessions=1)
        player = Player(engine, [picture(16, 32)], 24.0, token="sesame", recordings=tmp_path)
        async with TestServer(player.application()) as served, tls_proxy(tmp_path, served) as port:
            player.origin = f"https://{NAME}:{port}"
            async with browser_page(f"{player.origin}/?token=sesame", any_certificate=True) as page:
                await until(page, "drawn > 12")
                assert await page.evaluate("[isSecureContext, socket.url.split(':')[0]]") == [True, "wss"]
                await page.goto(f"https://player.localhost:{port}/?token=sesame")
                assert await page.evaluate("document.body.innerText") == "this host is not served here"
        engine.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def tls_proxy(folder: Path, served: TestServer) -> AsyncIterator[int]:
    """Ends TLS in front of a server and hands the bytes on, as a proxy that keeps the Host header; yields its port."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    subprocess.run([*command, "-keyout", folder / "tls.key", "-out", folder / "tls.pem"], check=True, capture_output=True)
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(folder / "tls.pem", folder / "tls.key")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the browser ends connections in any way it likes
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, onward = await asyncio.open_connection(served.host, served.port)
        await asyncio.gather(carry(reader, onward), carry(behind, writer))

    server = await asyncio.start_server(both, "127.0.0.1", 0, ssl=secured)
    yield server.sockets[0].getsockname()[1]
    server.close()


def test_a_phone_steers_by_pads_in_both_orientations_sends_a_picture_and_reloads(tmp_path: Path) -> None:
    steps = (upright_the_pads_send_keys, a_chosen_picture_starts_a_world, a_reload_goes_on_with_the_same_walk, sideways_everything_is_in_view)
    visit(tmp_path, *steps, width=390, height=844)


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


async def a_chosen_picture_starts_a_world(page: Page) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(48, 64, seed=3)).save(stream, "JPEG")
    await page.set_input_files("#upload", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": stream.getvalue()})
    await until(page, "picture === null && drawn > 5")


async def sideways_everything_is_in_view(page: Page) -> None:
    await page.set_viewport_size({"width": 844, "height": 390})
    await until(page, "innerWidth === 844")
    boxes = await page.evaluate(BOXES.format("#pads button, #world"))
    assert all(left >= 0 and right <= 844 and top >= 0 and bottom <= 390 for left, right, top, bottom in boxes)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
