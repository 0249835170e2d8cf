"""Source videos of many kinds, made with PyAV: marked frames whose orientation, number and brightness can be read back."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

CLOCK = Fraction(1, 90000)


def frames(count: int = 24, height: int = 96, width: int = 128) -> np.ndarray:
    """(T, H, W, 3) uint8: soft colours that move, red in the top left corner, green in the top right, blue in the bottom left."""
    cells = np.random.default_rng(3).integers(30, 220, (height // 16, width // 16 + 8, 3), dtype=np.uint8)
    wide = cv2.resize(cells, (width + 128, height), interpolation=cv2.INTER_CUBIC)
    shown = np.stack([wide[:, t : t + width] for t in range(count)])
    shown[:, :24, :24], shown[:, :24, -24:], shown[:, -24:, :24] = (220, 20, 20), (20, 220, 20), (20, 20, 220)
    return shown


def corners(frame: np.ndarray) -> str:
    """The colours of the corners top left, top right, bottom left, bottom right; "RGB." for an upright frame."""
    pieces = frame[4:16, 4:16], frame[4:16, -16:-4], frame[-16:-4, 4:16], frame[-16:-4, -16:-4]
    means = [piece.reshape(-1, 3).mean(0) for piece in pieces]
    return "".join("RGB"[int(mean.argmax())] if mean.max() - np.median(mean) > 90 else "." for mean in means)


def encode(path: Path, shown: Any, codec: str = "libx264", pixels: str = "yuv420p", **facts: Any) -> Path:
    """Writes frames with facts: fps, times (seconds of the frames), options, sar, matrix (a display matrix of
    9), colours (primaries, transfer, matrix, range), container (options), before (frames of previews that are streams before it)."""
    with av.open(str(path), "w", options=facts.get("container", {})) as container:
        plain = {"fps": 24}
        streams = [(_stream(container, other, "mjpeg", "yuvj420p", plain), other, plain) for other in facts.get("before", ())]
        streams.append((_stream(container, shown, codec, pixels, facts), shown, facts))
        container.start_encoding()
        for stream, images, own in streams:
            for index, image in enumerate(images):
                frame = image if isinstance(image, av.VideoFrame) else av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, 1 / _rate(own)
                if own.get("times") is not None:
                    frame.pts, frame.time_base = round(own["times"][index] / CLOCK), CLOCK
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def _rate(facts: dict[str, Any]) -> Fraction:
    return Fraction(facts.get("fps", 24)).limit_denominator(1001)


def _stream(container: Any, shown: Any, codec: str, pixels: str, facts: dict[str, Any]) -> Any:
    stream = container.add_stream(codec, rate=_rate(facts), options=facts.get("options", {}))
    first = shown[0]
    stream.height, stream.width = (first.height, first.width) if isinstance(first, av.VideoFrame) else first.shape[:2]
    stream.pix_fmt = pixels
    stream.codec_context.time_base = CLOCK if facts.get("times") is not None else 1 / _rate(facts)
    if facts.get("sar"):
        stream.sample_aspect_ratio = facts["sar"]
    if facts.get("matrix"):
        stream.set_display_matrix(facts["matrix"])
    if facts.get("colours"):
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = facts["colours"]
    return stream
