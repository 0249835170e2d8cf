"""Fragmented MP4 of a video that is still being made: each piece is complete, and the pieces are one file with continuous times."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from moworld.video.fragments import FragmentEncoder, boxes


@pytest.mark.parametrize("fps", [15, 30000 / 1001])
def test_pieces_are_complete_and_their_times_go_on(fps: float) -> None:
    scene = np.kron(np.random.default_rng(0).integers(0, 255, (4, 8, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    chunks = [np.stack([np.roll(scene, at, 1) for at in range(start, end)]) for start, end in ((0, 1), (1, 13), (13, 25))]
    encoder = FragmentEncoder(fps, crf=1)
    pieces = [encoder.encode(chunk) for chunk in chunks]
    assert [[kind for kind, _ in boxes(piece)] for piece in pieces] == [[b"ftyp", b"moov", b"moof", b"mdat"], *[[b"moof", b"mdat"]] * 2]
    for count in (1, 2, 3):  # a player that has so many pieces shows all their frames
        with av.open(io.BytesIO(b"".join(pieces[:count]))) as video:
            found = list(video.decode(video=0))
        assert len(found) == sum(map(len, chunks[:count]))
    seconds = [float(frame.pts * frame.time_base) for frame in found]
    rate = Fraction(fps).limit_denominator(1001)
    np.testing.assert_allclose(seconds, [float(number / rate) for number in range(25)], atol=1e-4)  # the clock has 15,360 ticks or so
    errors = [np.abs(frame.to_ndarray(format="rgb24").astype(int) - true).mean() for frame, true in zip(found, np.concatenate(chunks), strict=True)]
    assert max(errors) < 25  # chroma has half the resolution
