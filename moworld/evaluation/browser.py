"""A headless Chromium, driven over its DevTools socket: what the player is measured and tested with."""

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from moworld.errors import InputError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CODES = {"w": "KeyW", "a": "KeyA", "s": "KeyS", "d": "KeyD", "j": "KeyJ", "l": "KeyL", " ": "Space"}


def chromium() -> str:
    """Path of the browser. Raises InputError where there is none."""
    if CHROMIUM is None:
        raise InputError("chromium", "", "no such command", "a Chromium or Chrome", "install one: apt-get install chromium")
    return CHROMIUM


class Page:
    """One page: scripts are evaluated in it, keys are pressed on it, pictures are taken of it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number, self.errors = socket, 0, list[str]()

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        async for message in self.socket:
            answer = json.loads(message.data)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"]["text"])
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
        raise ConnectionError("the browser went away")

    async def evaluate(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not await self.evaluate(script):
                await asyncio.sleep(0.05)

    async def open(self, url: str, width: int = 1100, height: int = 760) -> None:
        await self.call("Runtime.enable")
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        await self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600, maxTouchPoints=2 if width < 600 else 1)
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def key(self, key: str, down: bool) -> None:
        await self.call("Input.dispatchKeyEvent", type="keyDown" if down else "keyUp", key=key, code=CODES[key])

    async def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A page of a Chromium of its own, whose profile lies in the folder `profile`. Raises InputError where there is no Chromium."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run", "--remote-debugging-port=0")
    process = await asyncio.create_subprocess_exec(
        chromium(), *flags, f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        port, written = profile / "DevToolsActivePort", ""
        async with asyncio.timeout(60):
            while "\n" not in written:
                await asyncio.sleep(0.05)
                written = port.read_text() if port.exists() else ""
        address = f"http://127.0.0.1:{written.splitlines()[0]}"
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{address}/json/list") as answer:
                pages = [target for target in await answer.json() if target["type"] == "page"]
            async with http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
