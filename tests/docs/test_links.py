"""Links of every tracked Markdown file: relative paths and anchors resolve, external addresses are well formed. No network is used."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(subprocess.check_output(["git", "-C", ROOT, "ls-files", "*.md"], text=True).split())
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)")


def prose(text: str) -> str:
    """The text without fenced blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ +(.+?) *#*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), flags=re.M)
    slugs = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)).strip().lower().replace(" ", "-") for title in titles]
    return {slug if not slugs[:index].count(slug) else f"{slug}-{slugs[:index].count(slug)}" for index, slug in enumerate(slugs)}


def broken(page: Path, text: str) -> list[str]:
    """Returns the targets of a page's links that do not resolve or are malformed."""
    found = []
    for target in LINK.findall(prose(text)):
        if "://" in target or target.startswith("mailto:"):
            parts = urlsplit(target)
            if not (parts.scheme in ("http", "https") and "." in parts.netloc):
                found.append(target)
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if file != page and not (file.exists() and ROOT in file.parents):
            found.append(target)
            continue
        if anchor and anchor not in anchors(text if file == page else file.read_text()):
            found.append(target)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name):
    page = ROOT / name
    assert page.is_file(), "deleted, but still tracked"
    assert not broken(page, page.read_text())


def test_a_missing_file_a_missing_anchor_and_a_malformed_address_are_found():
    text = (
        "# A title: `x`, twice\n[a](none.md) [b](#a-title-x-twice) [c](#other) [d](https:/example.org) [e](https://nohost) "
        "[f](https://example.org) ![g](README.md) `[h](none.md)`"
    )
    assert broken(ROOT / "CHECK.md", text) == ["none.md", "#other", "https:/example.org", "https://nohost"]
