"""The player as a person meets it: a headless Chromium on the real page, keys pressed at random moments, frames counted as they are drawn.

Time from a key to its frame runs in the page, from the handler of the key to the drawing of the first frame that obeys it; the screen's own
delay is not in it. Server, model and browser share the machine's cores.
"""

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from moworld.evaluation.bench import Row
from moworld.evaluation.browser import Page, browser, chromium

FPS = 30.0
WANTED_P95 = {"default": 500.0, "low latency": 300.0}  # milliseconds from a key to its frame
CHUNK_LATENTS = {"default": None, "low latency": 1}
KEPT = 100  # the page keeps so many of its latencies
COUNT = "counted = 0; draw ??= context.drawImage.bind(context); context.drawImage = (...given) => { counted += 1; draw(...given); }"


def bench_player(model: Path, events: int = KEPT, seed: int = 0) -> list[Row]:
    """Rows of both settings of the player at 30 FPS, beside what is wanted (`peer`); a ratio above 1 says that ours is better.

    events: keys that are pressed or let go in each setting, at most 100, at random moments 0.3 to 1 s apart
    Raises InputError where there is no Chromium.
    """
    chromium()
    rows: list[Row] = []
    for setting, chunk_latents in CHUNK_LATENTS.items():
        measured = asyncio.run(_measure(model, chunk_latents, min(events, KEPT), random.Random(seed)))
        wanted = {
            "frames drawn a second": FPS, "key to frame, 95th percentile": WANTED_P95[setting], "chunk interval, median": measured["chunk"],
            "chunks in time": 99.0,
        }  # fmt: skip
        for name, unit in UNITS.items():
            ours, peer = measured[name], wanted.get(name)
            better = None if peer is None else ours / peer if unit in ("1/s", "%") else peer / ours
            rows.append(
                {
                    "case": f"{setting}: {name}", "ours": round(ours, 2), "peer": peer, "peer_name": "wanted" if peer else "",
                    "ratio": better if better is None else round(better, 3), "unit": unit,
                }
            )  # fmt: skip
    return rows


UNITS = {
    "frames drawn a second": "1/s", "key to frame, median": "ms", "key to frame, 95th percentile": "ms", "chunk interval, median": "ms",
    "making of a chunk": "ms", "chunks in time": "%",
}  # fmt: skip


async def _measure(model: Path, chunk_latents: int | None, events: int, chance: random.Random) -> dict[str, float]:
    from aiohttp import web

    from moworld.inference.engine import Engine
    from moworld.inference.player.server import Player, pictures_of
    from moworld.model.world import WorldModel

    engine = Engine(WorldModel.load(model), 1, chunk_latents)
    with tempfile.TemporaryDirectory() as folder:
        player = Player(engine, pictures_of(model), FPS, recordings=Path(folder))
        runner = web.AppRunner(player.application())
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            async with browser(Path(folder) / "profile") as page:
                await page.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
                await page.until("drawn > 90", 120)  # caches are warm, the estimate of the making has settled
                return await _press(page, player, events, chance)
        finally:
            await runner.cleanup()
            engine.close()


async def _press(page: Page, player: Any, events: int, chance: random.Random) -> dict[str, float]:
    """Hold and let go of keys, and what was measured meanwhile."""
    (stream,) = player.streams
    await page.evaluate(f"var draw, counted; {COUNT}; latencies.length = 0; waiting.clear()")
    before, began = dict(stream.numbers), time.perf_counter()
    stream.intervals.clear()
    key = "w"
    for event in range(events):
        if event % 2 == 0:
            key = chance.choice("wasdjl")
        await page.key(key, event % 2 == 0)
        await asyncio.sleep(chance.uniform(0.3, 1.0))
    counted, seconds = await page.evaluate("counted"), time.perf_counter() - began
    await page.until("waiting.size === 0")
    latencies = sorted(await page.evaluate("latencies"))
    chunks, late = (stream.numbers[name] - before[name] for name in ("chunks", "late"))
    return {
        "frames drawn a second": counted / seconds,
        "key to frame, median": statistics.median(latencies),
        "key to frame, 95th percentile": latencies[min(len(latencies) - 1, int(0.95 * len(latencies)))],
        "chunk interval, median": 1000 * statistics.median(stream.intervals),
        "making of a chunk": 1000 * stream.making,
        "chunks in time": 100 * (1 - late / max(1, chunks)),
        "chunk": 1000 * stream.seat.session.chunk_frames / FPS,
    }
