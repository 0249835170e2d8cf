"""`moworld data import`, `docs` and `lineage` on real footage: accepted and rejected clips, the reasons, and their data revision."""

import asyncio
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from moworld.data.clips import read_manifest
from moworld.files import sha256_file
from moworld.video import read_frames, write_video
from moworld_ops.benchmarks.browser import CHROMIUM, browser_page
from moworld_ops.pipelines.runs import Run
from tests.moworld.data.test_sources import DATA, needs_data
from tests.moworld_ops.data_contracts.test_pages import Seen
from tests.moworld_ops.pipelines.test_cli import moworld


def clip_id(place: Path, name: str) -> str:
    """The id of the only clip of an imported video."""
    return f"{name}-{sha256_file(place / 'footage' / f'{name}.mp4')[:8]}-0000000"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs",), "no run that checked data"),
        (("docs", "--run", "nothing"), "no such run"),
        (("import", "nosuch"), "nosuch: found no such file or directory"),
        (("lineage", "nothing"), "no such model or clip"),
        (("import", "features.jsonl"), "feature files need --out and --codec"),
    ],
)
def test_a_command_without_data_is_refused_in_one_line(tmp_path, arguments, words):
    done = moworld(tmp_path, "data", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory):
    """A run over two seconds of a real orbit, after its first jump, and the same darkened: the first is accepted, the second rejected."""
    place = tmp_path_factory.mktemp("data")
    small = [
        cv2.resize(frame, (480, 242), interpolation=cv2.INTER_AREA) for frame in read_frames(DATA / "gsplat/viewer_garden_480p.mp4", 8, 53)
    ]
    (place / "footage").mkdir()
    write_video(place / "footage/orbit.mp4", small, 24)
    write_video(place / "footage/z-night.mp4", [(frame * 0.18).astype(np.uint8) for frame in small], 24)
    done = moworld(place / "home", "data", "import", str(place / "footage"), "--profile", "test", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    patch = pytest.MonkeyPatch()
    patch.setenv("MOWORLD_HOME", str(place / "home"))
    answer = json.loads(done.stdout)
    docs = moworld(place / "home", "data", "docs", "--out", str(place / "docs"), "--json")
    assert docs.returncode == 0, docs.stderr
    yield place, answer, Run(place / "home/runs" / answer["run"]), json.loads(docs.stdout)
    patch.undo()


@needs_data
@pytest.mark.slow
def test_footage_passes_every_contract_and_the_docs_count_accepted_clips(imported):
    place, answer, run, docs = imported
    assert answer["status"] == "done" and all(step["status"] == "done" for step in answer["steps"].values())
    (clip,) = read_manifest(run.output("annotate", "captioned"))
    assert clip.clip_id == clip_id(place, "orbit") and clip.camera_origin == "sfm" and clip.points
    assert clip.registered_share > 0.5 and clip.num_frames == round(45 * clip.registered_share)  # small pictures: SfM registers only a part
    assert docs["run"] == run.name and [part["contract"].split()[0] for part in docs["contracts"]] == [
        "clips", "geometry", "quality", "captions", "features"]  # fmt: skip
    assert [part["accepted"] for part in docs["contracts"]][2:] == [1, 1, 1]
    assert sum(part["rejected"] for part in docs["contracts"]) >= 1
    pages = {path.stem: Seen(path.read_text()) for path in (place / "docs").glob("*.html")}
    shown = [page for name, page in pages.items() if name != "index" and clip_id(place, "z-night") in page.words]
    assert shown and all((place / "docs" / picture).is_file() for page in shown for picture in page.pictures)
    assert any(page.pictures for page in shown) and run.name in pages["index"].words


@needs_data
@pytest.mark.slow
def test_lineage_finds_a_clip_by_name_and_by_hash_and_a_rejected_one_with_its_reasons(imported):
    place, _, run, _ = imported

    def lineage(name: str) -> dict:
        done = moworld(place / "home", "data", "lineage", name, "--profile", "test", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (clip,) = read_manifest(run.output("annotate", "captioned"))
    kept, same, rejected = lineage(clip_id(place, "orbit")), lineage(clip.video_sha256), lineage(clip_id(place, "z-night"))
    assert kept["kind"] == "clip" and kept["models"] == kept["decisions"] == []
    assert kept["in_newest_revision"] == same["in_newest_revision"] == run.record["data_revision"] != ""
    assert rejected["in_newest_revision"] == "" and {reason["run"] for reason in rejected["decisions"]} == {run.name}
    assert all(reason["rule"] and reason["threshold"] for reason in rejected["decisions"])


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_docs_and_every_picture_in_them(imported, tmp_path):
    place, *_ = imported

    async def look() -> None:
        async with browser_page("about:blank") as page:
            for path in sorted((place / "docs").glob("*.html")):
                await page.goto(path.as_uri())
                assert await page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), path
                assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
                assert len(await page.evaluate("document.body.innerText")) > 100
            assert await page.page_errors(filter="all") == []
            await page.screenshot(path=tmp_path / "page.png")

    asyncio.run(look())
    assert cv2.imread(str(tmp_path / "page.png")).std() > 5
