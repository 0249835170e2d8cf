"""Messages and pictures of browsers: bounded, strict, and refused in one line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moworld.errors import InputError
from moworld.inference.pictures import PICTURE_BYTES, PICTURE_PIXELS, read_picture
from moworld.inference.player.messages import Keys, RateLimit, parse
from tests.moworld.inference.player.hostile import bomb, encoded, hostile_pictures


def test_messages_are_read():
    keys = parse('{"type":"keys","keys":"wwl","number":3}')
    assert isinstance(keys, Keys) and keys.held == "wl"
    assert parse('{"type":"keys","keys":"wsjl","number":3}').held == "" and parse('{"type":"keys","keys":"","number":0}').held == ""
    assert parse('{"type":"start"}').picture == 0 and parse('{"type":"start","picture":null}').picture is None


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '{"type":"keys"}', '{"type":"quit"}', '{"type":"keys","keys":"q","number":1}', '{"type":"pause","paused":1}',
        '{"type":"keys","keys":"w","number":-1}', '{"type":"keys","keys":"w","number":1.5}', '{"type":"keys","keys":"w","number":1,"more":2}',
        '{"type":"start","seed":2147483648}', '{"type":"shown","frame":NaN}', '{"type":"shown","frame":1e99}', "[" * 4000, "x" * 5000,
        json.dumps({"type": "start", "prompt": "x" * 501}), '{"type":"start","picture":-1}',
    ],
)  # fmt: skip
def test_other_messages_are_refused_in_one_line(text: str):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@given(
    st.text(max_size=300)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)).map(
        json.dumps
    )
)
@settings(max_examples=40, deadline=None)
def test_any_text_is_parsed_or_refused(text: str):
    try:
        parse(text)
    except InputError:
        return


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_three_kinds_are_read_as_rgb(kind: str):
    picture = Image.fromarray(np.full((40, 60, 3), (200, 30, 60), dtype=np.uint8))
    read = read_picture(encoded(picture, kind))
    assert read.shape == (40, 60, 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int).mean((0, 1)) - (200, 30, 60)).max() < 6


def test_orientation_is_applied_and_transparency_dropped():
    tall = Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded(tall, "JPEG", exif=exif)).shape == (60, 40, 3)
    assert read_picture(encoded(Image.new("RGBA", (20, 30), (1, 2, 3, 4)), "PNG")).shape == (30, 20, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a" + bytes(100), bytes(PICTURE_BYTES + 1), bomb(100_000), bomb(60_000), bomb(2000),
     encoded(Image.new("RGB", (64, 64)), "PNG")[:60], encoded(Image.new("RGB", (8, 64)), "PNG"), encoded(Image.new("RGB", (64, 64)), "BMP")],
)  # fmt: skip
def test_hostile_pictures_are_refused_before_they_are_decoded(data: bytes):
    with pytest.raises(InputError, match="picture"):
        read_picture(data)


@pytest.mark.parametrize("data", hostile_pictures())
def test_hostile_bytes_are_a_picture_within_bounds_or_refused_in_one_line(data: bytes):
    try:
        picture = read_picture(data)
    except InputError as refused:
        assert "\n" not in str(refused)
    else:
        assert picture.ndim == 3 and min(picture.shape[:2]) >= 16 and picture.shape[0] * picture.shape[1] <= PICTURE_PIXELS


def test_a_rate_limit_allows_a_burst():
    now = [0.0]
    limit = RateLimit(rate=10, burst=3, clock=lambda: now[0])
    assert [limit.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.25
    assert [limit.take() for _ in range(3)] == [True, True, False]
    now[0] = 100.0
    assert sum(limit.take() for _ in range(10)) == 3  # no more than the burst accumulates
