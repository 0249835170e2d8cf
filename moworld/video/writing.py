"""Writes videos: H.264 with BT.709 colours, the same bytes for the same frames."""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write
from moworld.video.container import Frames

BT709 = 1  # of ITU-T H.273: matrix, primaries and transfer function
LIMITED = 1  # luma 16 to 235


def write_video(path: Pathlike, frames: Iterable[Frames], fps: float, crf: int = 18) -> int:
    """Writes H.264 from (H, W, 3) uint8 RGB frames with even sizes, atomically; returns their number.

    The pixels are yuv420p, BT.709, limited range, and the file says so.

    Equal frames give equal bytes: one encoder thread, no timestamps of the clock.
    Raises InputError for no frame, frames of different sizes and odd sizes.
    """
    import av
    from av.video.reformatter import Colorspace, VideoReformatter

    rate, count, stream = Fraction(fps).limit_denominator(1001), 0, None
    reformatter = VideoReformatter()
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise InputError(path, "frame size", f"{width}x{height}", "an even width and height", "resize the frames")
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.thread_count = 1
                stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
                stream.codec_context.color_range = LIMITED
                stream.options = {"crf": str(crf), "preset": "ultrafast", "threads": "1"}
            if frame.shape != (height, width, 3):
                raise InputError(path, f"frame {count}", f"shape {frame.shape}", f"({height}, {width}, 3)", "pass frames of one size")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED)))
            count += 1
        if stream is None:
            raise InputError(path, "", "no frame", "at least one frame", "pass at least one frame")
        container.mux(stream.encode(None))
    return count
