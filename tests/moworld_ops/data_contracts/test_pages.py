"""Pages about contracts: accepted and rejected rows with reasons, escaped data, histograms."""

import asyncio
import csv
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from moworld_ops.benchmarks.browser import CHROMIUM, browser_page
from moworld_ops.data_contracts.load import load_contract
from moworld_ops.data_contracts.pages import Batch, Checked, histogram, write_site

QUALITY = load_contract("quality")


class Seen(HTMLParser):
    """Text, links and pictures of a page; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.links, self.pictures, self.scripts = "", [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values, self.words = dict(attrs), self.words + " "
        self.links += [values["href"]] if tag == "a" else []
        self.pictures += [values["src"]] if tag == "img" else []
        self.scripts += tag == "script"
        assert tag not in ("script", "link") or not {"src", "href"} & set(values)

    def handle_data(self, data):
        self.words += data


def site(tmp_path, **changes):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    reasons = [
        {"clip_id": "<b>x</b>", "rule": "not-blurred", "value": 1.23456, "threshold": "5.0 to inf", "thumbnail": str(tmp_path / "a.png")},
        {"clip_id": "<b>x</b>", "rule": "one-shot", "value": None, "threshold": "-inf to 0.8", "thumbnail": None},
    ]
    kept = [{"clip_id": f"k{i}", "sharpness": 10.0 + i} for i in range(5)]
    checked = Checked(QUALITY, kept, [{"clip_id": "<b>x</b>", "sharpness": 1.2}], reasons)
    write_site(tmp_path / "site", [checked, Checked(load_contract("captions"))], {"run": "a-run"})
    return {path.stem: Seen(path.read_text()) for path in (tmp_path / "site").glob("*.html")}


def test_the_index_leads_to_every_contract_and_its_state(tmp_path):
    pages = site(tmp_path)
    assert sorted(pages) == ["captions", "index", "quality"]
    assert {"quality.html", "captions.html"} <= set(pages["index"].links)
    words = " ".join(pages["index"].words.split())
    assert "kept · 5 accepted · 1 rejected" in words and "not checked" in words and "run a-run" in words


def test_a_page_shows_rules_counts_reasons_and_pictures_and_fetches_nothing(tmp_path):
    page = site(tmp_path)["quality"]
    words = " ".join(page.words.split())
    assert "at least 5 (not-blurred) 1" in words and "between 15 and 240 (neither-dark-nor-burnt) 0" in words
    assert "<b>x</b>" in words  # escaped: it is text here, and no tag
    assert "not-blurred: 1.235 expected 5.0 to inf" in words and "one-shot: missing expected -inf to 0.8" in words
    assert page.pictures == ["pictures/quality-00000.png"] and (tmp_path / "site" / page.pictures[0]).is_file()
    assert page.scripts == 1 and all("://" not in link for link in page.links)


def test_counts_add_up_over_rules_and_sources_and_a_duplicate_names_the_clip_that_it_repeats(tmp_path):
    broken = {"x": ["no-near-duplicate", "one-shot"], "y": ["one-shot"], "z": ["not-blurred"]}
    facts = {"value": 1.0, "threshold": "-inf to 0.9", "thumbnail": None, "source_file": "=two.mp4", "video": str(tmp_path / "x.mp4")}
    reasons = [{"clip_id": clip, "rule": rule, **facts, "repeats": "k1" if "dup" in rule else None} for clip, rules in broken.items() for rule in rules]
    kept = [{"clip_id": f"k{i}", "source_file": "one.mp4"} for i in range(5)]
    rejected = [{"clip_id": clip, "source_file": "=two.mp4"} for clip in broken]
    write_site(tmp_path / "site", [Checked(QUALITY, kept, rejected, reasons)], {"run": "a-run"})
    page = Seen((tmp_path / "site/quality.html").read_text())
    words = " ".join(page.words.split())
    for row in ("one-shot 2 1", "no-near-duplicate 1 1", "not-blurred 1 1", "all a row may break several 3"):
        assert row in words, row
    assert "=two.mp4 3 0 3" in words and "one.mp4 5 5 0" in words and "repeats k1" in words
    assert (tmp_path / "x.mp4").as_uri() in page.links and "quality.csv" in page.links
    with (tmp_path / "site/quality.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0][key] for key in ("clip_id", "rule", "repeats")) == ("x", "no-near-duplicate", "k1")
    assert len(rows) == 4 and {row["source_file"] for row in rows} == {"'=two.mp4"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_search_leaves_the_rows_with_all_its_words(tmp_path):
    reasons = [{"clip_id": name, "rule": rule, "value": 1.0, "threshold": "", "thumbnail": None} for name, rule in (("a", "one-shot"), ("b", "not-blurred"))]
    rows = [{"clip_id": name, "source_file": f"{name}.mp4"} for name in "abc"]
    write_site(tmp_path / "site", [Checked(QUALITY, rows[2:], rows[:2], reasons)], {})

    async def search() -> None:
        async with browser_page((tmp_path / "site" / "quality.html").as_uri()) as page:
            for words, shown in (("", 5), ("B blurred", 1), ("mp4", 3), ("nothing", 0)):
                await page.get_by_label("Search").fill(words)
                assert await page.locator(".item:visible").count() == shown, words

    asyncio.run(search())


def test_the_index_compares_the_runs_of_a_profile(tmp_path):
    trend = [Batch("run-2", 6, {"quality": 2}), Batch("run-<1>", 4, {})]
    write_site(tmp_path / "site", [Checked(QUALITY), Checked(load_contract("captions"))], {}, trend)
    words = " ".join(Seen((tmp_path / "site/index.html").read_text()).words.split())
    assert "run accepted quality captions rejected run-2 6 2 0 25.0 % run-<1> 4 0 0 0.0 %" in words


def test_a_histogram_has_every_value_and_marks_the_thresholds():
    drawn = histogram([1.0, 2.0, 2.0, 3.0], [9.0], [5.0, None])
    heights = [bar["ok"][1] for bar in drawn["bars"] if bar["ok"][1]]
    assert len(heights) == 3 and heights[1] == 2 * heights[0]
    assert sum(bar["no"][1] > 0 for bar in drawn["bars"]) == 1 and [mark["value"] for mark in drawn["marks"]] == [5.0]
    assert histogram([3.0, 3.0], [], [1.0]) is None
    far = histogram([1.0, 1.5], [], [100.0])
    assert far["marks"][0]["outside"] and not drawn["marks"][0]["outside"]
    assert far["marks"][0]["x"] == far["width"] and far["high"] == 1.5  # at the edge, and the bars keep their width


def test_a_page_draws_the_bars_and_thresholds_of_its_measures(tmp_path):
    site(tmp_path)
    page = (tmp_path / "site/quality.html").read_text()
    assert page.count('<rect class="ok"') == 5 and page.count('<rect class="no"') == 1
    assert "<title>threshold 5</title>" in page and ">1.2</text>" in page and ">14</text>" in page


def test_a_batch_that_lost_too_many_is_broken():
    rows = [{"clip_id": str(i)} for i in range(3)]
    assert Checked(QUALITY, rows[:1], rows[1:]).status == "broken"
    assert Checked(QUALITY, rows[:1], rows[1:], passed=True).status == "kept"  # the others are parts of the one
    assert Checked(QUALITY, rows[:2], rows[2:]).status == "kept"
