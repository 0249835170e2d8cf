"""Captions describe the scene and never the camera's motion."""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moworld.data.captions import appearance_caption, count_words, mentions_camera_motion, read_caption_file, scene_caption
from moworld.data.clips import read_manifest
from moworld.data.settings import DataSettings
from moworld.data.sources import collect_clips
from moworld.video import write_video

facts = st.fixed_dictionaries(
    {
        "mean_rgb": st.lists(st.floats(0, 255), min_size=3, max_size=3),
        "brightness": st.floats(0, 255),
        "median_depth_units": st.floats(0, 2000),
        "objects": st.dictionaries(st.sampled_from(["HealthBonus", "TechLamp", "ExplosiveBarrel", "Column"]), st.floats(0, 1)),
    }
)


@settings(max_examples=15, deadline=None)
@given(facts)
def test_captions_of_scene_facts_mention_no_camera(scene):
    caption = scene_caption(scene)
    assert mentions_camera_motion(caption) == []
    assert caption == scene_caption(scene) and caption[0].isupper()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 255), min_size=3, max_size=3))
def test_captions_of_pixels_mention_no_camera(rgb):
    assert mentions_camera_motion(appearance_caption(rgb)) == []


def test_a_caption_names_light_place_and_what_is_seen_most():
    scene = {"mean_rgb": [90, 60, 55], "brightness": 60, "median_depth_units": 200,
             "objects": {"Column": 0.1, "HealthBonus": 0.5, "TechLamp": 0.3, "ExplosiveBarrel": 0.05}}  # fmt: skip
    assert scene_caption(scene) == "A dimly lit brown hall with health bonus, tech lamp, column, in the style of an early 3D game"


@pytest.mark.parametrize(
    "text",
    [
        "The camera slowly pans left over a garden",
        "A hall; the camera moves forward through it",
        "Panning right across the table",
        "We walk into a dark corridor",
        "A tracking shot of a red car",
        "Moving forward between two walls",
        "a first-person view of a corridor",
        "the viewpoint rotates around the statue",
        "zooming in on a flower",
        "A slow pan left over a table",
        "Zoom in on a flower",
    ],
)
def test_motion_of_the_camera_is_found(text):
    assert mentions_camera_motion(text)


@pytest.mark.parametrize(
    "text",
    [
        "A camera on a tripod stands on the table",
        "A train moves past a station",
        "People walk along the street",
        "A frying pan left on a stove",
        "Water flows to the left of a bridge",
        "A tilted tower beside a church",
        "A movie camera shop",
    ],
)
def test_motion_in_the_scene_is_left_alone(text):
    assert mentions_camera_motion(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "The perspective glides onward between the pillars.",
        "The viewer drifts toward the door.",
        "As the view swings right, a door is revealed.",
        "A stone hall with barrels. Footage advancing down a corridor, then rotating.",
        "Our vantage point climbs above the rooftops.",
        "The lens pushes deeper into the tunnel.",
    ],
)
def test_motion_of_viewers_views_and_lenses_is_found(text):
    assert len(mentions_camera_motion(text)) == 1


def test_things_that_turn_move_and_film_are_part_of_a_scene():
    scenes = ["A drone stands on a lawn.", "Dancers turn in circles on a stage.", "An old film projector stands in a dusty room.",
              "A car turns left at the corner.", "A cyclist rides past a row of houses.", "A photographer holds a camera."]  # fmt: skip
    assert [mentions_camera_motion(scene) for scene in scenes] == [[]] * len(scenes)


CAPTIONS = Path(__file__).parent / "captions"
GROUPS = {"English": ("en",), "Romance": ("fr", "es", "it", "pt"), "German": ("de",), "Russian": ("ru",), "Chinese, Japanese, Korean": ("zh", "ja", "ko"),
          "Arabic": ("ar",)}  # fmt: skip


def read_labelled(name: str) -> list[tuple[str, bool, str]]:
    """Returns (language, whether the camera's motion is mentioned, caption) of each line of a file."""
    rows = [line.split("\t") for line in (CAPTIONS / name).read_text(encoding="utf-8").splitlines()]
    return [(language, label == "leak", text) for language, label, text in rows]


def half_of(name: str, half: str) -> list[tuple[str, bool, str]]:
    """Returns `read_labelled` of a half. Halves are fixed by the captions' hashes, within each language and label."""
    parts = defaultdict(list)
    for language, leak, text in read_labelled(name):
        parts[language, leak].append(text)
    chosen = []
    for (language, leak), texts in parts.items():
        ordered = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
        chosen += [(language, leak, text) for text in ordered[half == "test" :: 2]]
    return chosen


@pytest.mark.parametrize("half", ["development", "test"])
@pytest.mark.parametrize("name", ["labelled.tsv", "independent.tsv"])
def test_recall_and_precision_in_every_group_of_languages(name, half):
    """No rule was made from the test halves. That of `independent.tsv` had recall 0.57 before rules were made from its other half, 0.97 after."""
    assert_recall_and_precision(half_of(name, half), f"{name}, {half}")


def test_paraphrases_stay_found():
    """Three batches written after rules existed. At first sight: recall 0.77, 0.68 and 0.67, precision 1, 1 and 0.96 overall; rules were then made from them."""
    assert_recall_and_precision(read_labelled("paraphrases.tsv"), "paraphrases")


def assert_recall_and_precision(rows: list[tuple[str, bool, str]], title: str) -> None:
    assert len(rows) >= 150 and len({language for language, _, _ in rows}) == 11
    for name, languages in GROUPS.items():
        own = [(leak, bool(mentions_camera_motion(text))) for language, leak, text in rows if language in languages]
        caught, leaks, found = sum(leak and hit for leak, hit in own), sum(leak for leak, _ in own), sum(hit for _, hit in own)
        print(f"{title}, {name}: recall {caught / leaks:.2f} of {leaks}, precision {caught / found:.2f} of {found}, {len(own) - leaks} clean")
        assert caught / leaks >= 0.9 and caught / found >= 0.95, name


def test_later_captions_stay_right():
    """Two batches written after rules existed. At first sight: recall 0.69 and 0.66, precision 0.98 and 1; rules were then made from them."""
    rows = read_labelled("later.tsv")
    assert len(rows) > 200
    assert [text for _, leak, text in rows if bool(mentions_camera_motion(text)) != leak] == []


def test_what_a_sign_says_is_not_the_camera():
    assert mentions_camera_motion("A sign on the wall reads: we move furniture.") == []
    assert mentions_camera_motion('A banner with the words "we fly forward" hangs over a street.') == []
    assert mentions_camera_motion("A sign reads open. The camera pans left.") and mentions_camera_motion('"The camera pans left."')


def test_composed_and_decomposed_letters_are_the_same():
    assert mentions_camera_motion("La came\u0301ra avance dans un couloir.") == ["La cam\u00e9ra avance"]


def test_a_place_in_a_text_counts_once_and_each_mention_counts():
    assert len(mentions_camera_motion("The camera pans left. A hall. Then the camera zooms in.")) == 2


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("A hall with barrels.", 4, 4),
        ("it's a push-in", 3, 3),
        ("狭窄的街道，两旁是砖房和停放的汽车。", 6, 12),
        ("レンガ造りの家と駐車した車がある狭い通り。", 7, 14),
        ("ถนนแคบที่มีบ้านอิฐและรถจอดอยู่", 4, 10),
        ("벽돌집과 주차된 차가 있는 좁은 거리", 6, 6),
        ("- - … 。 😀", 0, 0),
        ("", 0, 0),
    ],
)
def test_words_are_counted_in_any_script(text, low, high):
    assert low <= count_words(text) <= high


@pytest.mark.parametrize(
    ("content", "caption", "fault"),
    [
        ("A café.".encode(), "A café.", ""),
        ("A café.".encode("utf-8-sig"), "A café.", ""),
        ("A café.\r\nA street.\n".encode("utf-16"), "A café. A street.", ""),
        ("A café.".encode("utf-32"), "A café.", ""),
        ("狭窄的街道".encode(), "狭窄的街道", ""),
        ("A café.".encode("latin-1"), None, "not UTF-8"),
        ("狭窄的街道".encode("gbk"), None, "not UTF-8"),
        (b"", None, "no word"),
        (b" \n\t", None, "no word"),
        (b"...", None, "no word"),
        (b"a " * 1500, None, "characters, more than 2000"),
        (b"a" * 100_000, None, "bytes"),
        (b"a\0b", None, "control characters"),
        (bytes(range(256)), None, "a.prompt.txt: "),
        ("x".encode("utf-16")[:3], None, "not UTF-8"),
    ],
)
def test_a_caption_file_is_read_or_its_fault_is_named(tmp_path, content, caption, fault):
    (tmp_path / "a.prompt.txt").write_bytes(content)
    found, reason = read_caption_file(tmp_path / "a.mp4")
    assert found == caption and fault in reason and bool(reason) == bool(fault) and "\n" not in reason


def test_a_video_without_a_caption_file_has_none(tmp_path):
    assert read_caption_file(tmp_path / "a.mp4") == (None, "")
    (tmp_path / "b.prompt.txt").mkdir()
    assert "b.prompt.txt: " in read_caption_file(tmp_path / "b.mp4")[1]


def test_a_faulty_caption_file_costs_the_caption_and_not_the_video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    for name, shift in (("a", 2), ("b", -2)):  # one content is imported once
        write_video(tmp_path / f"in/{name}.mp4", [np.roll(frames[0], shift * step, axis=1) for step in range(20)], 24)
    (tmp_path / "in/a.prompt.txt").write_bytes("Ein Café in der Straße".encode("latin-1"))
    (tmp_path / "in/b.prompt.txt").write_bytes("A café in a street".encode("utf-16"))
    summary = collect_clips(tmp_path / "out", DataSettings(videos=str(tmp_path / "in"), min_frames=13), 0)
    assert {(row["video"], row["rule"]) for row in summary["rejected"]} == {("a.mp4", "caption")}
    assert {clip.scene: clip.caption for clip in read_manifest(tmp_path / "out")} == {"a": None, "b": "A café in a street"}
