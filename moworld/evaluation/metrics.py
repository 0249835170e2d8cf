"""Every metric of a release: unit, direction, meaning, and the baselines to compare it with. The only table of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """unit is "" for pure numbers; baselines are names of metrics of the same unit that are shown beside this one.

    held_out: it is measured on held-out clips
    timed:    it is worse on a busy machine
    trivial:  the value that needs no model: that of a grey picture, of chance or of no response; None for a metric that judges no model
    """

    unit: str
    higher_is_better: bool
    meaning: str
    baselines: tuple[str, ...] = ()
    held_out: bool = True
    timed: bool = False
    trivial: float | None = None


UP, DOWN = True, False
GREY = 6.02  # dB: a grey picture has this PSNR or more against any picture, because no pixel differs by more than half
SPAN = 42.1  # dB: from a grey picture to one with an error of one step of 256
METRICS = {
    "student_next_chunk_psnr": Metric(
        "dB", UP, "INT8 student: PSNR of the next chunk of held-out episodes, given the first frame and the camera path",
        ("last_frame_psnr", "student_fp32_next_chunk_psnr", "codec_psnr_held_out"), trivial=GREY,
    ),
    "student_fp32_next_chunk_psnr": Metric("dB", UP, "student before quantization, same windows and noise", ("last_frame_psnr",), trivial=GREY),
    "int8_psnr_drop": Metric("dB", DOWN, "full precision minus INT8, same windows and noise", trivial=SPAN),
    "teacher_next_chunk_psnr": Metric(
        "dB", UP, "teacher: PSNR of the next chunk, same windows", ("last_frame_psnr", "codec_psnr_held_out"), trivial=GREY,
    ),
    "teacher_next_chunk_mse": Metric(
        "", DOWN, "teacher: MSE of the next chunk, pixels in [0, 1]", ("teacher_next_chunk_mse_camera_zeroed", "last_frame_mse"), trivial=0.25,
    ),
    "teacher_next_chunk_mse_camera_zeroed": Metric("", DOWN, "teacher with the camera condition zeroed, same windows and noise"),
    "teacher_camera_gain": Metric("dB", UP, "teacher: PSNR of the next chunk with cameras minus that with cameras zeroed", trivial=0.0),
    "codec_psnr_held_out": Metric("dB", UP, "PSNR of the codec alone on the same chunks: the upper bound of generated chunks", trivial=GREY),
    "last_frame_psnr": Metric("dB", UP, "baseline: the first frame repeated through the chunk"),
    "last_frame_mse": Metric("", DOWN, "MSE of the first frame repeated through the chunk"),
    "turning_correlation": Metric(
        "", UP, "correlation of the turning in the generated video, measured by optical flow and recorded depth, with the commanded turning",
        ("real_turning_correlation", "turning_correlation_camera_zeroed"), trivial=0.0,
    ),
    "real_turning_correlation": Metric("", UP, "the same for the recorded video through the codec: the upper bound of the measurement"),
    "turning_correlation_camera_zeroed": Metric("", DOWN, "the same for a video generated with the camera condition zeroed"),
    "walking_correlation": Metric(
        "", UP, "correlation of steps ahead and aside in the generated video with the commanded steps",
        ("real_walking_correlation", "walking_correlation_camera_zeroed"), trivial=0.0,
    ),
    "real_walking_correlation": Metric("", UP, "the same for the recorded video through the codec"),
    "walking_correlation_camera_zeroed": Metric("", DOWN, "the same for a video generated with the camera condition zeroed"),
    "swapped_turns": Metric("", DOWN, "share of clear turns that appear in the opposite direction", ("real_swapped_turns",), trivial=0.5),
    "real_swapped_turns": Metric("", DOWN, "the same for the recorded video through the codec"),
    "looking_correlation": Metric("", UP, "correlation of the pitch in videos that look up and down, measured by optical flow, with the commanded one", trivial=0.0),
    "separation": Metric("dB", DOWN, "PSNR between straight walks from different first frames under the same keys: high if worlds become one",
                         ("real_separation",), trivial=SPAN),
    "real_separation": Metric("dB", DOWN, "the same between the recorded clips through the codec"),
    "separation_excess": Metric("dB", DOWN, "separation minus that of the recorded clips", trivial=SPAN),
    "walk_contrast": Metric("", UP, "contrast at the end of the straight walks, as a share of the recorded clips'", trivial=0.0),
    "walk_saturation": Metric("", UP, "saturation there, as a share", trivial=0.0),
    "walk_sharpness": Metric("", UP, "variance of the Laplacian there, as a share", trivial=0.0),
    "return_psnr": Metric("dB", UP, "PSNR to the first frame after turning away for 24 frames and back", ("codec_psnr_held_out",), trivial=GREY),
    "drift": Metric("dB", DOWN, "PSNR of the first chunk of a rollout minus that of its last chunk", trivial=SPAN),
    "frames_per_second": Metric("frames/s", UP, "new frames per second after the first chunk", held_out=False, timed=True),
    "time_to_first_chunk_seconds": Metric(
        "s", DOWN, "from opening the session with an image and a prompt to the first new frames", held_out=False, timed=True
    ),
    "chunk_interval_seconds": Metric("s", DOWN, "median time from a key to the frames that follow it", held_out=False, timed=True),
    "chunk_interval_p95_seconds": Metric("s", DOWN, "95th percentile of the time from a key to its frames", held_out=False, timed=True),
    "chunks_in_time": Metric("", UP, "share of chunks that take no longer than they play", held_out=False, timed=True),
    "cpu_of_others": Metric("", DOWN, "share of the machine's CPU time that other processes used while speed was measured", held_out=False),
    "frames_per_chunk": Metric("frames", UP, "new frames in one chunk", held_out=False),
    "load_seconds": Metric("s", DOWN, "from a model folder to a session that can start", held_out=False, timed=True),
    "peak_bytes": Metric("bytes", DOWN, "peak memory of a process that serves the model: resident, or on the accelerator", held_out=False),
    "model_bytes": Metric("bytes", DOWN, "weights of the served experts on disk", ("unquantized_bytes",), held_out=False),
    "unquantized_bytes": Metric("bytes", DOWN, "weights of the same experts before quantization", held_out=False),
}  # fmt: skip
