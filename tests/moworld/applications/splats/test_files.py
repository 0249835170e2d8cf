"""Scene files, read back by a reader of their own and by gsplat.js in a browser, and files that are refused."""

import asyncio
import io
import struct
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.applications.splats.files import read_scene, write_scene
from moworld.applications.splats.scene import C0, Scene, render_frames, view_of
from moworld.applications.splats.viewer import server
from moworld.errors import InputError
from moworld_ops.benchmarks.browser import CHROMIUM


def scene(count: int = 200, degree: int = 0) -> Scene:
    """Gaussians in a block before the camera, of all sizes, rotations and colours."""
    generator = torch.Generator().manual_seed(degree)
    rows = torch.zeros(count, 23 if degree else 14)
    rows[:, :3] = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([2.0, 1.2, 1.0]) + torch.tensor([0, 0, 3.0])
    rows[:, 3:6] = torch.rand(count, 3, generator=generator) * 1.5 - 4.5
    rows[:, 6:10] = torch.randn(count, 4, generator=generator) * 3
    rows[:, 10] = torch.randn(count, generator=generator) + 2
    rows[:, 11:14] = (torch.rand(count, 3, generator=generator) - 0.5) / C0
    rows[:, 14:] = torch.randn(count, rows.shape[1] - 14, generator=generator) * 0.3
    return Scene(rows)


def vertices(data: bytes) -> tuple[list[str], list[tuple[float, ...]]]:
    """Reads a binary PLY from its published format alone: names of the properties, and a tuple of floats a vertex."""
    stream, names, count = io.BytesIO(data), [], 0
    assert stream.readline() == b"ply\n" and stream.readline() == b"format binary_little_endian 1.0\n"
    while (line := stream.readline().decode("ascii").rstrip("\n")) != "end_header":
        words = line.split()
        if words[0] == "element":
            assert words[1] == "vertex"
            count = int(words[2])
        elif words[0] == "property":
            assert words[1] == "float"
            names.append(words[2])
        else:
            assert words[0] == "comment"
    rows = [struct.unpack(f"<{len(names)}f", stream.read(4 * len(names))) for _ in range(count)]
    assert not stream.read()
    return names, rows


@pytest.mark.parametrize("degree", [0, 1])
def test_a_ply_has_the_names_the_order_and_the_conventions_of_the_field(tmp_path, degree):
    written = scene(7, degree)
    write_scene(tmp_path / "a.ply", written, ("units: map units",))
    assert b"comment units: map units\n" in (tmp_path / "a.ply").read_bytes()
    names, rows = vertices((tmp_path / "a.ply").read_bytes())
    rest = [f"f_rest_{index}" for index in range(9)] if degree else []
    tail = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, *tail]
    for number, values in enumerate(rows):
        row, expected = dict(zip(names, values, strict=True)), written.rows[number].tolist()
        assert [row["x"], row["y"], row["z"], row["opacity"]] == [*expected[:3], expected[10]]  # a logit
        assert [row[f"scale_{axis}"] for axis in range(3)] == expected[3:6]  # logarithms
        quaternion = np.array(expected[6:10]) / np.linalg.norm(expected[6:10])
        assert [row[f"rot_{index}"] for index in range(4)] == pytest.approx(quaternion.tolist(), abs=1e-6)  # w first, of length 1
        assert [row[f"f_dc_{channel}"] for channel in range(3)] == expected[11:14]
        for index in range(9 * degree):  # all of red, then green, then blue
            channel, coefficient = divmod(index, 3)
            assert row[f"f_rest_{index}"] == expected[14 + 3 * coefficient + channel]


def test_a_splat_has_records_of_32_bytes_the_most_visible_first(tmp_path):
    written = scene(50)
    write_scene(tmp_path / "a.splat", written)
    data = (tmp_path / "a.splat").read_bytes()
    assert len(data) == 32 * 50
    rows = [struct.unpack("<6f8B", data[start : start + 32]) for start in range(0, len(data), 32)]
    sizes = [np.prod(row[3:6]) * row[9] for row in rows]
    assert all(one >= other * 0.98 for one, other in pairwise(sizes)) and sizes[0] > 3 * sizes[-1]
    for row in rows:
        (number,) = torch.nonzero((written.means == torch.tensor(row[:3])).all(1))[0].tolist()
        values = written.rows[number]
        assert row[3:6] == pytest.approx(values[3:6].exp().tolist(), rel=1e-5)
        colour = (0.5 + C0 * values[11:14]).clamp(0, 1) * 255
        assert list(row[6:9]) == pytest.approx(colour.tolist(), abs=0.51) and row[9] == pytest.approx(float(values[10].sigmoid()) * 255, abs=0.51)
        quaternion = values[6:10] / values[6:10].norm()
        assert (np.array(row[10:14]) - 128) / 128 == pytest.approx(quaternion.tolist(), abs=0.008)


@pytest.mark.parametrize("degree", [0, 1])
def test_a_scene_is_read_as_it_was_written(tmp_path, degree):
    written = scene(9, degree)
    write_scene(tmp_path / "a.ply", written)
    found = read_scene(tmp_path / "a.ply")
    view = view_of(np.eye(4), np.array([0.6, 0.9, 0.5, 0.5]), (30, 45))
    assert found.degree == degree and np.array_equal(render_frames(found, [view]), render_frames(written, [view]))


def test_files_that_hold_no_scene_are_refused(tmp_path):
    path = tmp_path / "a.ply"
    write_scene(path, scene(3))
    good = path.read_bytes()
    nan = good[:-4] + struct.pack("<f", float("nan"))
    cases = {
        "no such": None, "header": b"solid", "bytes for 3": good[:-4], "no property rot_3": good.replace(b"rot_3", b"rot_9"),
        "float properties": good.replace(b"property float nx", b"property uchar nx"), "NaN": nan, "zeros": good[:-16] + bytes(16),
        "bytes for 0": good.replace(b"vertex 3", b"vertex 0"),
    }  # fmt: skip
    for message, data in cases.items():
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError, match=f"(?i){message}"):
            read_scene(path)
        with pytest.raises(InputError):
            server(path, 0)


async def pictured(path: Path, width: int, height: int) -> tuple[dict, np.ndarray]:
    """What gsplat.js read from a scene, and what it draws at the start, (height, width, 3)."""
    from PIL import Image
    from playwright.async_api import async_playwright

    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with server(path, 0) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=flags)
            page = await browser.new_page(viewport={"width": width, "height": height})
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            await page.goto(f"http://127.0.0.1:{listening.server_port}/")
            async with asyncio.timeout(120):
                while not await page.evaluate("window.failed || window.drawn > 8"):
                    await asyncio.sleep(0.2)
                await asyncio.sleep(3)  # splats fade in
            await page.evaluate("document.getElementById('status').hidden = true")
            shot, loaded = await page.screenshot(), await page.evaluate("window.loaded")
            await browser.close()
        listening.shutdown()
    assert problems == []
    return loaded, np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("suffix", ["ply", "splat"])
def test_gsplat_js_draws_the_file_as_we_render_the_scene(tmp_path, suffix):
    written, path = scene(300), tmp_path / f"scene.{suffix}"
    write_scene(path, written.scaled(50.0))
    loaded, drawn = asyncio.run(pictured(path, 320, 200))
    assert loaded["count"] == 300
    ours = render_frames(written, [view_of(np.eye(4), np.array([0.5, 0.8, 0.5, 0.5]), (200, 320))])[0]
    error = np.square((drawn.astype(float) - ours) / 255).mean()
    mirrored = np.square((drawn[:, ::-1].astype(float) - ours) / 255).mean()
    assert drawn.std() > 10 and error < 1e-3 and error < mirrored / 20


def test_the_vendored_viewer_is_the_published_one():
    """The hashes of the npm package's files, as third_party/README.md states them."""
    from hashlib import sha256

    from moworld.applications.splats.viewer import HERE

    readme = (HERE / "third_party" / "README.md").read_text()
    for name in ("gsplat.js", "gsplat.LICENSE.md"):
        assert f"| `{name}` | `{sha256((HERE / 'third_party' / name).read_bytes()).hexdigest()}` |" in readme
