"""Settings of the benchmark. Imports no torch."""

from moworld.settings import NonNegativeInt, PositiveInt, Settings


class BenchmarkSettings(Settings):
    """`windows` held-out windows of one chunk; `samples` longer episodes of `sample_chunks` chunks, shown real beside generated.

    walk_starts:  held-out first frames from which straight walks of `walk_frames` frames start, rounded up to whole chunks; 0: none
    held_out: False for footage without held-out clips: only speed and size are measured
    """

    held_out: bool = True

    windows: PositiveInt = 12
    teacher_steps: PositiveInt = 8
    samples: NonNegativeInt = 3
    sample_chunks: PositiveInt = 4
    walk_starts: NonNegativeInt = 6
    walk_frames: NonNegativeInt = 300
    speed_chunks: PositiveInt = 4
