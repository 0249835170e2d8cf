"""axe-core on the page in each of its states. It comes from npm in one pinned version when the test runs, and is no part of the repository (MPL-2.0)."""

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from moworld.inference.player.server import Player
from moworld_ops.benchmarks.browser import CHROMIUM, browser_page, until
from tests.moworld.inference.worlds import picture, tiny_engine

VERSION, SHA256 = "4.14.1", "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"  # of the package's archive
LAPTOP, PHONE = (1366, 768), (390, 844)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the script of axe-core. Skips where npm is not installed or its registry does not answer; another archive is a failure."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which fetches axe-core")
    command = ["npm", "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=20000", f"--cache={folder / 'cache'}", f"axe-core@{VERSION}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    archive = folder / f"axe-core-{VERSION}.tgz"
    if not archive.is_file():
        pytest.skip(f"npm could not fetch axe-core {VERSION}")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as opened:
        script = opened.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


async def violations(page: Page, axe: str) -> list[Any]:
    """Returns the rules that are broken, of any impact, with their elements."""
    await page.evaluate(axe)
    done = await page.evaluate("axe.run().then(r => [r.passes.length, r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)])])")
    assert done[0] > 8, "rules applied"
    return list(done[1])


@contextlib.asynccontextmanager
async def served(folder: Path, token: str = "") -> AsyncIterator[str]:
    engine = tiny_engine(folder, max_sessions=1)
    server = TestServer(Player(engine, [picture(16, 32), picture(16, 32, seed=1)], 24.0, token=token, recordings=folder, model="tiny").application())
    async with server:
        yield str(server.make_url("/"))
    engine.close()


@pytest.mark.parametrize(("width", "height"), [LAPTOP, PHONE])
def test_the_page_breaks_no_rule_of_axe_core_in_any_state(tmp_path: Path, axe: str, width: int, height: int) -> None:
    async def run() -> dict[str, list[Any]]:
        found = {}
        async with served(tmp_path) as url, browser_page(url, width, height) as page, browser_page(url, width, height) as other:
            await until(page, "!element('enter').hidden && element('pictures').children.length === 2")
            found["start"] = await violations(page, axe)
            await page.click("#enter")
            await until(page, "drawn > 5")
            found["playing"] = await violations(page, axe)
            await page.evaluate("problem('a problem'); element('drifted').hidden = false; share()")
            found["error, drift and link"] = await violations(page, axe)
            await page.evaluate("setPaused(true)")
            found["paused"] = await violations(page, axe)
            await other.click("#enter")
            await until(other, "element('notice').textContent.includes('in the queue')")
            found["queue"] = await violations(other, axe)
        return found

    assert {state: broken for state, broken in asyncio.run(run()).items() if broken} == {}


def test_the_pages_without_a_token_and_without_a_server_break_none_either(tmp_path: Path, axe: str) -> None:
    async def run() -> dict[str, list[Any]]:
        found = {}
        async with contextlib.AsyncExitStack() as stack:
            async with served(tmp_path, "sesame") as url:
                page = await stack.enter_async_context(browser_page(f"{url}#model=tiny&picture=1&seed=5", *PHONE))  # a shared link has no token
                found["token"] = await violations(page, axe)
                await page.fill("#token", "sesame")
                await page.click("#open")
                await until(page, "typeof drawn !== 'undefined' && drawn > 5")
                assert await page.evaluate("[picture, element('seed').value]") == [1, "5"]
            await until(page, "element('notice').textContent.includes('trying again')")
            found["server gone"] = await violations(page, axe)
        return found

    assert {state: broken for state, broken in asyncio.run(run()).items() if broken} == {}
