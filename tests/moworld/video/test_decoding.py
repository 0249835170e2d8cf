"""Pictures as a player shows them: upright, square, progressive, SDR; damaged ones are marked, other streams are left out."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from moworld.errors import InputError
from moworld.video import Decoder, read_frames
from moworld.video.colour import gamut_matrix, hlg_light, pq_light, to_sdr
from tests.moworld.video.footage import corners, encode, frames

ONE = 1 << 16
LAST = 1 << 30


@pytest.mark.parametrize(
    ("matrix", "size", "seen"),
    [
        ((ONE, 0, 0, ONE), (96, 128), "RGB."),
        ((0, ONE, -ONE, 0), (128, 96), "BR.G"),  # clockwise
        ((-ONE, 0, 0, -ONE), (96, 128), ".BGR"),
        ((0, -ONE, ONE, 0), (128, 96), "G.RB"),  # counter-clockwise
        ((-ONE, 0, 0, ONE), (96, 128), "GR.B"),  # mirrored
        ((0, ONE, ONE, 0), (128, 96), "RBG."),  # transposed
    ],
)
def test_the_display_matrix_is_applied(tmp_path: Path, matrix, size, seen):
    a, b, c, d = matrix
    decoded = read_frames(encode(tmp_path / "v.mp4", frames(4), matrix=[a, b, 0, c, d, 0, 0, 0, LAST]), 0, 4)
    assert decoded.shape[1:3] == size and corners(decoded[2]) == seen


def test_a_slanted_display_matrix_is_refused(tmp_path: Path):
    slanted = [int(0.8 * ONE), int(0.6 * ONE), 0, int(-0.6 * ONE), int(0.8 * ONE), 0, 0, 0, LAST]
    with pytest.raises(InputError, match=r"display matrix: found a turn by 37 degrees"):
        read_frames(encode(tmp_path / "v.mp4", frames(2), matrix=slanted))


def test_pixels_become_square_and_sizes_are_limited_before_the_turn(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", frames(3), sar=Fraction(32, 27))
    assert read_frames(path).shape[1:3] == (96, 152)
    (picture, *_) = Decoder(path, limit=48)
    assert picture.image.shape == (48, 76, 3) and picture.form.changes() == ["pixel aspect 32:27"]


def pq_signal(light: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (light / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def ten_bit(signal: np.ndarray) -> av.VideoFrame:
    """A BT.2020 yuv444p10 frame of an RGB signal, limited range."""
    red, green, blue = np.moveaxis(signal, -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    frame = av.VideoFrame(signal.shape[1], signal.shape[0], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((signal.shape[0], plane.line_size // 2), np.uint16)
        rows[:, : signal.shape[1]] = np.rint(values)
        plane.update(rows.tobytes())
    return frame


def test_hdr_looks_like_the_same_scene_in_sdr(tmp_path: Path):
    shown = frames(2).astype(float) / 255
    light = 203 * shown**2.4 @ np.linalg.inv(gamut_matrix(9)).T
    path = encode(tmp_path / "hdr.mkv", [ten_bit(pq_signal(np.maximum(one, 0))) for one in light], "ffv1", "yuv444p10le", colours=(9, 16, 9, 1))
    decoded = read_frames(path)
    assert np.abs(decoded - 255 * shown).mean() < 3  # untreated: above 30
    assert next(iter(Decoder(path))).form.changes() == ["PQ to SDR", "BT.2020 to BT.709"]


def test_hdr_and_wide_gamut_formulas():
    white = np.full(3, 0.58069)  # PQ of 203 cd/m2, ITU-R BT.2408
    assert pq_light(white) == pytest.approx(203, rel=1e-3)
    assert hlg_light(np.full(3, 0.75)) == pytest.approx(203, rel=0.01)
    ramp = to_sdr(np.linspace(0, 1, 33)[:, None].repeat(3, 1), 16, 9)
    assert (np.diff(ramp, axis=0) > -1e-6).all() and ramp[-1] == pytest.approx(1)
    np.testing.assert_allclose(gamut_matrix(9) @ np.ones(3), 1, atol=1e-6)
    np.testing.assert_allclose(to_sdr(np.full(3, 0.5), 1, 12), 0.5, atol=1e-6)  # grey stays grey


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6])
def test_matrix_and_range_follow_the_tags(tmp_path: Path, matrix: int, full: bool):
    shown = frames(2)
    reformatter = av.video.reformatter.VideoReformatter()
    images = [
        reformatter.reformat(av.VideoFrame.from_ndarray(one, format="rgb24"), format="yuv444p", dst_colorspace=5 if matrix == 6 else 1, dst_color_range=1 + full)
        for one in shown
    ]
    path = encode(tmp_path / "v.mkv", images, "ffv1", "yuv444p", colours=(1, 1, matrix, 1 + full))
    assert np.abs(read_frames(path).astype(int) - shown).mean() < 2


def test_interlaced_frames_lose_their_combs(tmp_path: Path):
    shown = frames(40)
    woven = shown[::2].copy()
    woven[:, 1::2] = shown[1::2, 1::2]
    graph = av.filter.Graph()
    source = graph.add("buffer", "video_size=128x96:pix_fmt=rgb24:time_base=1/25")
    chain = [source, graph.add("format", pix_fmts="yuv420p"), graph.add("setfield", mode="tff"), graph.add("buffersink")]
    graph.link_nodes(*chain).configure()
    images = []
    for image in woven:
        graph.push(av.VideoFrame.from_ndarray(image, format="rgb24"))
        images.append(graph.pull())
    options = {"flags": "+ildct+ilme", "qscale": "2"}
    path = encode(tmp_path / "v.mkv", images, "mpeg2video", fps=25, options=options)
    pictures = list(Decoder(path))
    assert len(pictures) == 20 and pictures[3].form.changes() == ["deinterlaced"]

    def combs(frame: np.ndarray) -> float:
        return float(np.abs(frame[1:-1] - (frame[:-2] + frame[2:]) / 2).mean())

    clean, combed = combs(shown[20].astype(float)), combs(woven[10].astype(float))
    assert combs(pictures[10].image.astype(float)) < clean + 0.3 * (combed - clean)


def test_transparent_pixels_are_black(tmp_path: Path):
    shown = np.concatenate([frames(2), np.full((2, 96, 128, 1), 255, np.uint8)], axis=-1)
    shown[:, 40:60, 40:60, 3] = 0
    images = [av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgba") for one in shown]
    decoded = read_frames(encode(tmp_path / "v.mov", images, "png", "rgba"))
    assert decoded[0, 42:58, 42:58].max() == 0
    assert np.abs(decoded[0, :40].astype(int) - shown[0, :40, :, :3]).max() <= 2


def test_a_preview_before_the_film_is_left_out(tmp_path: Path):
    path = encode(tmp_path / "v.mkv", frames(6), before=[frames(6, 32, 48)])
    decoder = Decoder(path)
    assert {picture.image.shape for picture in decoder} == {(96, 128, 3)}
    assert decoder.omitted == ("1 other video stream",)


def test_damage_spoils_the_pictures_until_the_next_key_frame(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", frames(48), options={"g": "12", "bf": "0", "crf": "10"})
    with av.open(str(path)) as container:
        hurt = [packet for packet in container.demux(video=0) if packet.size][17]
        place, size = hurt.pos, hurt.size
    data = bytearray(path.read_bytes())
    data[place + size // 3 : place + size // 2] = b"\xff" * (size // 2 - size // 3)
    path.write_bytes(data)
    damaged = [index for index, picture in enumerate(Decoder(path)) if picture.damage]
    assert damaged and set(damaged) >= {17, 18, 23} and min(damaged) >= 16 and max(damaged) <= 24
    with pytest.raises(InputError, match="a broken stream"):
        read_frames(path)


def copied(source: Path, target: Path, skip: int, shift: float = 0.0) -> Path:
    """Copies the packets from number `skip` on, `shift` seconds earlier; times before zero are kept out by an edit list, as after a cut."""
    with av.open(str(source)) as opened, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as made:
        stream = made.add_stream_from_template(opened.streams.video[0])
        for number, packet in enumerate(opened.demux(opened.streams.video[0])):
            if packet.dts is not None and number >= skip:
                less = round(shift / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - less, packet.dts - less, stream
                made.mux(packet)
    return target


def test_frames_before_the_start_of_an_edit_list_are_not_shown(tmp_path: Path):
    whole = encode(tmp_path / "whole.mp4", frames(48), options={"bf": "2", "g": "48"})
    shown, cut = [*Decoder(whole)], Decoder(copied(whole, tmp_path / "cut.mp4", 0, 0.5))
    kept = [*cut]
    assert len(kept) == 36 and cut.missing == "" and not any(picture.damage for picture in kept)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(shown[12:], kept, strict=True))


def test_leading_frames_of_an_open_group_whose_reference_was_cut_off_are_not_shown(tmp_path: Path):
    options = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}
    whole = encode(tmp_path / "whole.ts", frames(48), options=options)
    shown = [*Decoder(whole)]
    with av.open(str(whole)) as opened:
        keys = [number for number, packet in enumerate(opened.demux(opened.streams.video[0])) if packet.is_keyframe]
    kept = [picture for picture in Decoder(copied(whole, tmp_path / "cut.ts", keys[1])) if not picture.damage]
    assert len(kept) >= 32 and all(np.array_equal(one.image, other.image) for one, other in zip(shown[-len(kept) :], kept, strict=True))


def test_a_file_that_ends_before_its_index_says_so(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", frames(48), options={"g": "12", "bf": "0"}, container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        cut = [packet.pos for packet in container.demux(video=0) if packet.size][20]
    path.write_bytes(path.read_bytes()[:cut])
    decoder = Decoder(path)
    assert len(list(decoder)) == 20 and decoder.missing == "the index promises 48 frames, the file holds 20"


def test_playlists_are_not_followed(tmp_path: Path):
    (tmp_path / "v.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"v\.mp4"):
        read_frames(tmp_path / "v.mp4")
