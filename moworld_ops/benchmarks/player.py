"""`moworld bench player`: the player's page in a headless Chromium. Keys are pressed at random moments, and drawn frames are counted.

The time from a key to its frame is measured in the page: from the key's handler to the drawing of the first frame that follows it. The
screen's delay is not included. Server, model and browser share the machine's cores.
"""

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moworld_ops.benchmarks.browser import browser_page, chromium, until
from moworld_ops.benchmarks.measure import Row, row

if TYPE_CHECKING:
    from playwright.async_api import Page

FPS = 30.0
TARGET_P95 = {"default": 250.0, "low latency": 150.0}  # milliseconds from a key to its frame
CHUNK_LATENTS = {"default": None, "low latency": 1}
MAX_EVENTS = 100  # the page keeps so many latencies
COUNT = "counted = 0; draw ??= context.drawImage.bind(context); context.drawImage = (...given) => { counted += 1; draw(...given); }"


def bench_player(model: Path, events: int = MAX_EVENTS, seed: int = 0, cache: Path | None = None) -> list[Row]:
    """Returns rows of both settings of the player at 30 FPS beside the target (`peer`); a ratio above 1 means that the target is met.

    events: presses and releases of keys in each setting, at most 100, at random moments 0.3 to 1 s apart
    cache:  directory of OpenVINO; the model is served as `moworld play` serves it, by the faster backend
    Raises InputError if Chromium is not installed.
    """
    chromium()
    rows: list[Row] = []
    for setting, chunk_latents in CHUNK_LATENTS.items():
        measured = _served(model, chunk_latents, min(events, MAX_EVENTS), random.Random(seed), cache)
        targets = {
            "frames drawn a second": FPS, "key to frame, 95th percentile": TARGET_P95[setting], "chunk interval, median": measured["chunk"],
            "chunks in time": 99.0,
        }  # fmt: skip
        for name, unit in UNITS.items():
            ours, peer = measured[name], targets.get(name)
            better = None if peer is None else ours / peer if unit in ("1/s", "%") else peer / ours
            rows.append(row(f"{setting}: {name}", ours, unit, peer, "target" if peer else "", better))
    return rows


UNITS = {
    "frames drawn a second": "1/s", "key to frame, median": "ms", "key to frame, 95th percentile": "ms", "chunk interval, median": "ms",
    "making of a chunk": "ms", "chunks in time": "%",
}  # fmt: skip


def _served(model: Path, chunk_latents: int | None, events: int, chance: random.Random, cache: Path | None) -> dict[str, float]:
    from moworld.inference.loading import serving_world

    with serving_world(model, chunk_latents=chunk_latents, backend="auto", cache=cache) as world:
        return asyncio.run(_measure(model, world, chunk_latents, events, chance))


async def _measure(model: Path, world: Any, chunk_latents: int | None, events: int, chance: random.Random) -> dict[str, float]:
    from aiohttp import web

    from moworld.inference.engine import Engine
    from moworld.inference.pictures import model_pictures
    from moworld.inference.player.server import Player

    engine = Engine(world, 1, chunk_latents)
    with tempfile.TemporaryDirectory() as folder:
        player = Player(engine, model_pictures(model), FPS, token="bench", recordings=Path(folder))
        runner = web.AppRunner(player.application())
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            async with browser_page(f"http://127.0.0.1:{runner.addresses[0][1]}/?token=bench") as page:
                await until(page, "drawn > 90", 120)  # caches are warm, the estimate of a chunk's time has settled
                return await _press(page, player, events, chance)
        finally:
            await runner.cleanup()
            engine.close()


async def _press(page: "Page", player: Any, events: int, chance: random.Random) -> dict[str, float]:
    """Presses and releases keys, and returns what was measured meanwhile."""
    (stream,) = player.streams
    await page.evaluate(f"var draw, counted; {COUNT}; latencies.length = 0; waiting.clear()")
    before, began = dict(stream.numbers), time.perf_counter()
    stream.intervals.clear()
    key = "w"
    for event in range(events):
        if event % 2 == 0:
            key = chance.choice("wasdjl")
        await (page.keyboard.up(key) if event % 2 else page.keyboard.down(key))
        await asyncio.sleep(chance.uniform(0.3, 1.0))
    counted, seconds = await page.evaluate("counted"), time.perf_counter() - began
    await until(page, "waiting.size === 0")
    latencies = sorted(await page.evaluate("latencies"))
    chunks, late = (stream.numbers[name] - before[name] for name in ("chunks", "late"))
    return {
        "frames drawn a second": counted / seconds,
        "key to frame, median": statistics.median(latencies),
        "key to frame, 95th percentile": latencies[min(len(latencies) - 1, int(0.95 * len(latencies)))],
        "chunk interval, median": 1000 * statistics.median(stream.intervals),
        "making of a chunk": 1000 * stream.making,
        "chunks in time": 100 * (1 - late / max(1, chunks)),
        "chunk": 1000 * stream.slot.session.chunk_frames / FPS,
    }
