"""The doors `moworld data import`, `docs` and `lineage` on real footage: what was kept, what was not and why, and whose data it became."""

import asyncio
import json

import cv2
import numpy as np
import pytest

from moworld.data.clips import read_manifest
from moworld.evaluation.browser import CHROMIUM, browser
from moworld.video import read_frames, write_video
from pipelines.report import output
from pipelines.runs import Run
from tests.data_contracts.test_pages import Seen
from tests.moworld.data.test_sources import DATA, needs_data
from tests.pipelines.test_cli import moworld

ORBIT, NIGHT = "orbit-00", "z-night-00"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("docs",), "no run that checked data"),
        (("docs", "--run", "nothing"), "no such run"),
        (("lineage", "nothing"), "no such model or clip"),
        (("import", "features.jsonl"), "feature files need --out and --codec"),
    ],
)
def test_a_door_with_nothing_behind_it_says_so_in_one_line(tmp_path, arguments, words):
    done = moworld(tmp_path, "data", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory):
    """A run over two seconds of a real orbit, from its first leap on, and the same at night: one is kept, the other is not."""
    place = tmp_path_factory.mktemp("doors")
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
def test_footage_goes_through_every_contract_and_the_docs_count_what_stayed(imported):
    place, answer, run, docs = imported
    assert answer["status"] == "done" and all(step["status"] == "done" for step in answer["steps"].values())
    (clip,) = read_manifest(output(run, "annotate", "captioned"))
    assert clip.clip_id == ORBIT and clip.camera_origin == "sfm" and clip.points
    assert clip.registered_share > 0.5 and clip.num_frames == round(45 * clip.registered_share)  # small pictures: the rest is cut off
    assert docs["run"] == run.name and [part["contract"].split()[0] for part in docs["contracts"]] == [
        "clips", "geometry", "quality", "captions", "features"]  # fmt: skip
    assert [part["accepted"] for part in docs["contracts"]][2:] == [1, 1, 1]
    assert sum(part["rejected"] for part in docs["contracts"]) >= 1
    pages = {path.stem: Seen(path.read_text()) for path in (place / "docs").glob("*.html")}
    told = [page for name, page in pages.items() if name != "index" and NIGHT in page.words]
    assert told and all((place / "docs" / picture).is_file() for page in told for picture in page.pictures)
    assert any(page.pictures for page in told) and run.name in pages["index"].words


@needs_data
@pytest.mark.slow
def test_a_clip_is_known_by_its_name_and_by_its_bytes_and_a_rejected_one_by_its_reasons(imported):
    place, _, run, _ = imported

    def lineage(name: str) -> dict:
        done = moworld(place / "home", "data", "lineage", name, "--profile", "test", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (clip,) = read_manifest(output(run, "annotate", "captioned"))
    kept, same, left = lineage(ORBIT), lineage(clip.video_sha256), lineage(NIGHT)
    assert kept["kind"] == "clip" and kept["models"] == kept["decisions"] == []
    assert kept["in_newest_revision"] == same["in_newest_revision"] == run.record["data_revision"] != ""
    assert left["in_newest_revision"] == "" and {reason["run"] for reason in left["decisions"]} == {run.name}
    assert all(reason["rule"] and reason["threshold"] for reason in left["decisions"])


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_docs_and_every_picture_in_them(imported, tmp_path):
    place, *_ = imported

    async def look() -> None:
        async with browser(tmp_path / "profile") as page:
            for path in sorted((place / "docs").glob("*.html")):
                await page.open(path.as_uri())
                await page.until(f"location.href === '{path.as_uri()}' && document.readyState === 'complete'")
                assert await page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)"), path
                assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
                assert len(await page.evaluate("document.body.innerText")) > 100
            assert page.errors == []
            await page.screenshot(tmp_path / "page.png")

    asyncio.run(look())
    assert cv2.imread(str(tmp_path / "page.png")).std() > 5
