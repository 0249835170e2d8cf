"""Encodes a video that is still being made: fragmented MP4, one piece of bytes for each chunk of frames, complete as soon as it is returned.

The pieces in order are one file: the first begins with the header (`ftyp`, `moov`), each has one fragment (`moof`, `mdat`) whose first frame
is a key frame. Every chunk has an encoder and a muxer of its own, because a muxer that goes on holds frames back until the next chunk.
"""

import io
import struct
from fractions import Fraction
from typing import Any

import numpy as np

from moworld.video.container import Frames
from moworld.video.writing import BT709, LIMITED

FLAGS = "empty_moov+default_base_moof+skip_trailer"
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
HEADER = (b"ftyp", b"moov")


class FragmentEncoder:
    """H.264 in yuv420p, BT.709, at `fps` frames a second. Width and height must be even."""

    def __init__(self, fps: float, crf: int = 18) -> None:
        self.rate, self.crf, self.chunks, self.frames = Fraction(fps).limit_denominator(1001), crf, 0, 0

    def encode(self, frames: Frames) -> bytes:
        """Returns the piece of a chunk (T, H, W, 3) uint8 RGB, T of at least 1."""
        data, ticks = self._muxed(frames)
        pieces = [
            _starting_at(box, ticks) if kind == b"moof" else box for kind, box in boxes(data) if not self.chunks or kind not in HEADER
        ]
        self.chunks += 1
        self.frames += len(frames)
        return b"".join(pieces)

    def _muxed(self, frames: Frames) -> tuple[bytes, int]:
        """Returns a file of the chunk alone, and the time of its first frame in units of the file's clock."""
        import av
        from av.video.reformatter import Colorspace, VideoReformatter

        file, reformatter = io.BytesIO(), VideoReformatter()
        with av.open(file, "w", format="mp4", options={"movflags": FLAGS, "fragment_index": str(self.chunks + 1)}) as container:
            stream: Any = container.add_stream("libx264", rate=self.rate)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.time_base = stream.codec_context.time_base = 1 / self.rate
            stream.codec_context.thread_count = 1
            stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
            stream.codec_context.color_range = LIMITED
            stream.options = {"crf": str(self.crf), **OPTIONS}
            for number, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture = reformatter.reformat(picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED)
                picture.pts, picture.time_base = number, 1 / self.rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
            ticks = round(self.frames / self.rate / stream.time_base)  # the muxer's own clock, known after its first packet
        return file.getvalue(), ticks


def _starting_at(moof: bytes, ticks: int) -> bytes:
    """Returns a fragment's header with another start: FFmpeg's muxer begins each file at 0 (ISO/IEC 14496-12, 8.8.12)."""
    version = moof.index(b"tfdt") + 4  # a byte, then three of flags
    form, start = (">Q" if moof[version] == 1 else ">I"), version + 4
    return moof[:start] + struct.pack(form, ticks) + moof[start + struct.calcsize(form) :]


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the outermost boxes of an MP4 file: type, and the whole box."""
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at : at + size]))
        at += size
    return found
