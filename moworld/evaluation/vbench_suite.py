"""VBench-I2V's list of prompts and images, and the videos in a folder that match it by name.

Missing videos, missing images and files outside the suite are all reported.
"""

from dataclasses import dataclass
from pathlib import Path

from moworld.errors import InputError
from moworld.evaluation.vbench import DIMENSIONS
from moworld.files import Pathlike, read_json

SAMPLES = 5  # videos for each prompt, PROMPT-0.mp4 to PROMPT-4.mp4
SIDECAR = "vbench_suite.json"  # a folder's own list, for videos with other names
EXPECTED = "a list of objects with prompt_en, dimension and image_name, as vbench2_i2v_full_info.json"


@dataclass(frozen=True)
class Entry:
    """A prompt of the suite: image file, scores it counts for (short names), and video names if they differ from the default."""

    prompt: str
    image: str
    dimensions: tuple[str, ...]
    videos: tuple[str, ...] = ()

    def names(self, samples: int) -> list[str]:
        """Returns the expected video names."""
        return list(self.videos) or [f"{self.prompt}-{index}.mp4" for index in range(samples)]


@dataclass(frozen=True)
class Case:
    """An existing video with its first image (None if missing) and the scores it counts for."""

    video: Path
    image: Path | None
    dimensions: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The suite in a folder: cases; missing names; files outside the suite; number of expected videos of each score."""

    cases: list[Case]
    missing: list[str]
    unknown: list[str]
    expected: dict[str, int]


def read_suite(path: Pathlike, limit: int = 0) -> list[Entry]:
    """Returns the prompts that count for any of the eight scores, in the file's order; with `limit`, that many, evenly spread.

    The official list's camera-motion prompts count for none of the eight. An entry may have a `video_list` and, instead of image_name,
    a `custom_image_path`, as in VBench's files of other systems.
    Raises InputError for a different file format, a name outside the folder, or a repeated prompt.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(path, "", type(rows).__name__, EXPECTED, "give VBench-I2V's list")
    entries = [entry for number, row in enumerate(rows) if (entry := _entry(path, number, row)).dimensions]
    if not entries:
        raise InputError(path, "", "no prompt of any of the eight scores", EXPECTED, "give VBench-I2V's list")
    names = [name for entry in entries for name in entry.names(1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(path, twice[0], "the same video twice", "a prompt for each video", "remove one of the two")
    count = min(limit, len(entries)) or len(entries)
    return [entries[index * len(entries) // count] for index in range(count)]


def find_videos(folder: Pathlike, entries: list[Entry], images: Path | None, samples: int = SAMPLES) -> Found:
    """Returns the suite's videos in a folder; raises InputError if there are none."""
    root = Path(folder)
    present = {path.name for path in root.iterdir() if path.is_file() and not path.name.startswith(".")}
    cases, missing, expected = [], [], dict.fromkeys(DIMENSIONS, 0)
    for entry in entries:
        picture = _picture(root, entry, images)
        for name in entry.names(samples):
            for dimension in entry.dimensions:
                expected[dimension] += 1
            if name in present:
                cases.append(Case(root / name, picture, entry.dimensions))
            else:
                missing.append(name)
    matched = {*(case.video.name for case in cases)}
    unknown = sorted(name for name in present - matched if Path(name).suffix.lower() not in (".json", ".txt", ".html"))
    if not cases:
        found = f"{len(unknown)} other files" if unknown else "no video"
        fix = f"rename them, or write {SIDECAR} in that folder with video_list and custom_image_path"
        raise InputError(root, "", found, f"videos of the suite, such as {entries[0].names(samples)[0]!r}", fix)
    return Found(cases, missing, unknown, expected)


def _picture(root: Path, entry: Entry, images: Path | None) -> Path | None:
    places = [root / entry.image, *([images / entry.image] if images else [])]
    return next((place for place in places if place.is_file()), None)


def _entry(path: Pathlike, number: int, row: object) -> Entry:
    where = f"entry {number}"
    if not isinstance(row, dict) or not isinstance(row.get("prompt_en"), str) or not isinstance(row.get("dimension"), list):
        raise InputError(path, where, "no prompt_en and dimension", EXPECTED, "give VBench-I2V's list")
    image = row.get("image_name") or row.get("custom_image_path") or ""
    videos = row.get("video_list") or []
    names = [videos] if isinstance(videos, str) else list(videos)
    for name in (row["prompt_en"], *names):
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(path, where, repr(name), "a file name without folders", "give the video's name only")
    short = {long: name for name, long in DIMENSIONS.items()}
    dimensions = tuple(short[name] for name in row["dimension"] if name in short)
    return Entry(row["prompt_en"], str(image), dimensions, tuple(names))
