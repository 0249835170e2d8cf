"""A page in a headless Chromium, driven by playwright: for benchmarks and tests of the web pages."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from moworld.errors import InputError
from moworld.extras import require

if TYPE_CHECKING:
    from playwright.async_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--mute-audio"]


def chromium() -> str:
    """Returns the path of the browser; raises InputError if none is installed."""
    if CHROMIUM is None:
        raise InputError("chromium", "", "no such command", "a Chromium or Chrome", "install one: apt-get install chromium")
    return CHROMIUM


@contextlib.asynccontextmanager
async def browser_page(url: str, width: int = 1100, height: int = 760, any_certificate: bool = False) -> AsyncIterator["Page"]:
    """Opens `url` in a Chromium process of its own; a width under 600 pixels emulates a phone with touch.

    any_certificate: accepts certificates that no authority signed
    Raises InputError if Chromium or playwright is not installed.
    """
    path, playwright = chromium(), require("playwright.async_api", "dev")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=FLAGS)
        phone = width < 600
        page = await browser.new_page(
            viewport={"width": width, "height": height}, is_mobile=phone, has_touch=phone, ignore_https_errors=any_certificate
        )
        await page.goto(url)
        yield page
        await browser.close()


async def until(page: "Page", script: str, seconds: float = 30.0) -> None:
    """Waits until `script` is true; raises TimeoutError after `seconds`.

    `Page.wait_for_function` is not usable here: it evaluates strings in the page, which the player's content security policy forbids.
    """
    async with asyncio.timeout(seconds):
        while not await page.evaluate(script):
            await asyncio.sleep(0.05)
