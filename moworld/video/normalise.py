"""Turns decoded frames into pictures as a player shows them, by FFmpeg's filters.

- Interlaced frames: bwdif, one frame for each frame.
- Sample aspect ratio: the width is scaled, the height stays.
- PQ, HLG, BT.2020 and P3 primaries: a table for lut3d, see colour.py.
- Matrix not stated: BT.709 above 1279 x 576 pixels, BT.601 below, as players do. The range follows the frame.
- Alpha: over black.
- Display matrix: quarter turns and mirror images; another angle is refused.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.video.colour import GAMUTS, TRANSFERS, needs_table, table_file
from moworld.video.container import Frames

if TYPE_CHECKING:
    import av

UNSPECIFIED = 2
MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
HD_WIDTH, HD_HEIGHT = 1280, 577
ASPECTS = (Fraction(1, 8), Fraction(8))  # of a pixel: others are damaged headers
TURN_TOLERANCE = 0.02  # of a display matrix's largest entry
ROTATIONS = {
    (False, False, False): 0, (False, True, True): 180, (True, True, False): 90, (True, False, True): 270,
    (False, True, False): 0, (False, False, True): 180, (True, True, True): 90, (True, False, False): 270,
}  # fmt: skip
FLAGS = "area+accurate_rnd+full_chroma_int"


@dataclass(frozen=True)
class Form:
    """How frames of a video are stored, and so what is done to them.

    height, width: coded size; aspect: width of a pixel over its height; pixels, matrix, full_range, transfer, primaries: of the colours
    turn:          (transposed, mirrored left to right, mirrored top to bottom), in this order
    field_order:   "" for progressive frames, else parity of bwdif: auto, tff, bff
    """

    height: int
    width: int
    pixels: str
    alpha: bool
    aspect: Fraction
    matrix: int
    full_range: bool
    transfer: int
    primaries: int
    turn: tuple[bool, bool, bool]
    field_order: str

    @property
    def display_hw(self) -> tuple[int, int]:
        """Size of the picture upright with square pixels."""
        height, width = self.height, max(1, round(self.width * self.aspect))
        return (width, height) if self.turn[0] else (height, width)

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which the picture was turned; a mirrored one is mirrored left to right before."""
        return ROTATIONS[self.turn]

    @property
    def is_mirrored(self) -> bool:
        return sum(self.turn) % 2 == 1

    def changes(self) -> list[str]:
        """Returns what is done to the frames, in words."""
        done = ["mirrored"] * self.is_mirrored + [f"turned {self.rotation} degrees"] * bool(self.rotation)
        done += [f"pixel aspect {self.aspect.numerator}:{self.aspect.denominator}"] * (self.aspect != 1)
        done += ["deinterlaced"] * bool(self.field_order) + ["alpha over black"] * self.alpha
        done += [f"{TRANSFERS.get(self.transfer)} to SDR"] * (self.transfer in TRANSFERS)
        done += [f"{GAMUTS.get(self.primaries)} to BT.709"] * (self.primaries in GAMUTS)
        return done


def form_of(frame: "av.VideoFrame", aspect: Fraction | None, field_order: str, turn: tuple[bool, bool, bool], path: Pathlike) -> Form:
    """Returns the form of a decoded frame. Raises InputError for a pixel aspect that cannot be right."""
    aspect = aspect or Fraction(1)
    if not ASPECTS[0] <= aspect <= ASPECTS[1]:
        raise InputError(path, "sample aspect ratio", str(aspect), "1/8 to 8", "replace the file, or correct its header")
    hdr, primaries = frame.color_trc in TRANSFERS, int(frame.color_primaries)
    if hdr and primaries == UNSPECIFIED:
        primaries = 9
    matrix = int(frame.colorspace)
    if matrix == UNSPECIFIED:
        matrix = 9 if hdr else 1 if frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT else 6
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    alpha = any(component.is_alpha for component in frame.format.components)
    return Form(
        frame.height, frame.width, frame.format.name, alpha, aspect, matrix, full,
        int(frame.color_trc), primaries, turn, field_order,
    )  # fmt: skip


def turn_of(path: Pathlike, frame: "av.VideoFrame") -> tuple[bool, bool, bool]:
    """Returns the display matrix as transpose and flips; raises InputError for other angles.

    It makes a reference cycle of the frame, which then lives until the garbage is collected: use it for few frames.
    A pixel (p, q) goes to (a p + c q, b p + d q); the matrix is stored as a, b, u, c, d, v, x, y, w.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).astype(float)
    largest = max(abs(a), abs(b), abs(c), abs(d))
    straight, crossed = max(abs(b), abs(c)), max(abs(a), abs(d))
    if largest == 0 or min(straight, crossed) > TURN_TOLERANCE * largest:
        degrees = np.degrees(np.arctan2(b, a))
        raise InputError(path, "display matrix", f"a turn by {degrees:.0f} degrees", "a multiple of 90 degrees", "turn the video, and write it again")
    return (False, bool(a < 0), bool(d < 0)) if straight < crossed else (True, bool(c < 0), bool(b < 0))


class Normaliser:
    """Filters frames of one form; gives one (H, W, 3) uint8 RGB picture for each frame, bwdif one frame later."""

    def __init__(self, form: Form, limit: float | None = None, detect_combs: bool = False) -> None:
        """limit: largest height of the pictures, None for no limit; detect_combs: idet marks interlaced frames in the metadata."""
        self.form = form
        height, width = form.display_hw
        factor = min(1.0, limit / height) if limit else 1.0
        self.size_hw = max(1, round(height * factor)), max(1, round(width * factor))
        self._graph: av.filter.Graph | None = None
        plain = form.changes() == [] and self.size_hw == (form.height, form.width) and form.matrix in MATRICES
        if not plain or detect_combs:
            self._graph = self._configured(detect_combs)

    def push(self, frame: "av.VideoFrame") -> "list[tuple[Frames, str]]":
        """Returns the pictures that are ready, each with the verdict of idet ("" without it)."""
        if self._graph is None:
            matrix, limits = self.form.matrix, 2 if self.form.full_range else 1
            source = {4: 4, 6: 5, 10: 9}.get(matrix, matrix)
            return [(np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=source, src_color_range=limits), np.uint8), "")]
        self._graph.push(frame)
        return self._pulled()

    def flush(self) -> "list[tuple[Frames, str]]":
        """Returns the pictures that are still inside; nothing may be pushed afterwards."""
        if self._graph is None:
            return []
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> "list[tuple[Frames, str]]":
        from av.error import BlockingIOError as NotYet
        from av.error import EOFError as Ended

        pictures: list[tuple[Frames, str]] = []
        while True:
            try:
                frame: Any = self._graph.pull()  # type: ignore[union-attr]
            except (NotYet, Ended):
                return pictures
            pictures.append((np.asarray(frame.to_ndarray(), np.uint8), frame.metadata.get("lavfi.idet.multiple.current_frame", "")))

    def _configured(self, detect_combs: bool) -> "av.filter.Graph":
        import av

        form, graph = self.form, av.filter.Graph()
        header = f"video_size={form.width}x{form.height}:pix_fmt={form.pixels}:time_base=1/1000000"
        if form.matrix in MATRICES:
            header += f":colorspace={MATRICES[form.matrix]}:range={'pc' if form.full_range else 'tv'}"
        last = graph.add("buffer", header)
        with ExitStack() as stack:
            for name, options in [*self._filters(detect_combs, stack), ("buffersink", {})]:
                following = graph.add(name, **options)
                last.link_to(following)
                last = following
            graph.configure()
        return graph

    def _filters(self, detect_combs: bool, stack: ExitStack) -> list[tuple[str, dict[str, str]]]:
        """Returns names and options of the filters; `stack` keeps the files that they name until the graph is configured."""
        form = self.form
        filters: list[tuple[str, dict[str, str]]] = [("idet", {})] if detect_combs else []
        if form.field_order:
            which = "interlaced" if form.field_order == "auto" else "all"
            filters.append(("bwdif", {"mode": "send_frame", "parity": form.field_order, "deint": which}))
        height, width = self.size_hw[::-1] if form.turn[0] else self.size_hw
        filters.append(("scale", {"w": str(width), "h": str(height), "flags": FLAGS}))
        if form.alpha:
            filters += [("format", {"pix_fmts": "gbrap"}), ("premultiply", {"inplace": "1"})]
        if needs_table(form.transfer, form.primaries):
            file = stack.enter_context(table_file(form.transfer, form.primaries))
            filters += [("format", {"pix_fmts": "gbrp16"}), ("lut3d", {"file": file})]
        filters.append(("format", {"pix_fmts": "rgb24"}))
        names: tuple[tuple[str, dict[str, str]], ...] = ("transpose", {"dir": "cclock_flip"}), ("hflip", {}), ("vflip", {})
        return filters + [filter_ for wanted, filter_ in zip(form.turn, names, strict=True) if wanted]
