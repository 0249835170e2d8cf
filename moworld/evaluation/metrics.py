"""Every number a release is judged by: its unit, which way is better, what it means, and the baselines it is read against. One table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """unit is "" for pure numbers; baselines are names of metrics of the same unit that are shown beside this one."""

    unit: str
    higher_is_better: bool
    meaning: str
    baselines: tuple[str, ...] = ()


UP, DOWN = True, False
METRICS = {
    "student_next_chunk_psnr": Metric(
        "dB", UP, "INT8 student: PSNR of the next chunk of held-out episodes, given the first frame and the camera path",
        ("last_frame_psnr", "student_fp32_next_chunk_psnr", "codec_psnr_held_out"),
    ),
    "student_fp32_next_chunk_psnr": Metric("dB", UP, "the same student before quantization, from the same noise", ("last_frame_psnr",)),
    "int8_psnr_drop": Metric("dB", DOWN, "what quantization costs: full precision minus INT8, from the same noise"),
    "teacher_next_chunk_psnr": Metric(
        "dB", UP, "teacher: PSNR of the next chunk, same windows", ("last_frame_psnr", "codec_psnr_held_out")
    ),
    "teacher_next_chunk_mse": Metric(
        "", DOWN, "teacher: MSE of the next chunk, pixels in [0, 1]", ("teacher_next_chunk_mse_camera_zeroed", "last_frame_mse"),
    ),
    "teacher_next_chunk_mse_camera_zeroed": Metric("", DOWN, "the same with the camera condition zeroed, from the same noise"),
    "teacher_camera_gain": Metric("dB", UP, "teacher: PSNR of the next chunk with its cameras minus that with cameras zeroed"),
    "codec_psnr_held_out": Metric("dB", UP, "what the codec alone keeps of the same chunks: the ceiling of every generated chunk"),
    "last_frame_psnr": Metric("dB", UP, "baseline: the first frame repeated through the chunk"),
    "last_frame_mse": Metric("", DOWN, "the same baseline as mean squared error"),
    "turning_correlation": Metric(
        "", UP, "turning seen in the generated video, by its optical flow and the recorded depth, against the turning asked for",
        ("real_turning_correlation", "turning_correlation_camera_zeroed"),
    ),
    "real_turning_correlation": Metric("", UP, "the same reading of the recorded video through the codec: what the measure itself can reach"),
    "turning_correlation_camera_zeroed": Metric("", DOWN, "the same reading of a video generated with the camera condition zeroed"),
    "walking_correlation": Metric(
        "", UP, "steps ahead and aside seen in the generated video, against those asked for",
        ("real_walking_correlation", "walking_correlation_camera_zeroed"),
    ),
    "real_walking_correlation": Metric("", UP, "the same reading of the recorded video through the codec"),
    "walking_correlation_camera_zeroed": Metric("", DOWN, "the same reading of a video generated with the camera condition zeroed"),
    "swapped_turns": Metric("", DOWN, "share of clear turns that are seen to go to the other side", ("real_swapped_turns",)),
    "real_swapped_turns": Metric("", DOWN, "the same reading of the recorded video through the codec"),
    "drift": Metric("dB", DOWN, "PSNR of the first chunk of a rollout minus that of its last chunk"),
    "frames_per_second": Metric("frames/s", UP, "new frames a second once the session is warm"),
    "time_to_first_chunk_seconds": Metric("s", DOWN, "from opening the session with an image and a prompt to the first new frames"),
    "chunk_interval_seconds": Metric("s", DOWN, "median time from a key to the frames that follow it"),
    "chunk_interval_p90_seconds": Metric("s", DOWN, "nine of ten chunks come within it"),
    "frames_per_chunk": Metric("frames", UP, "new frames that one chunk brings"),
    "load_seconds": Metric("s", DOWN, "from a model folder to a session that can start"),
    "peak_bytes": Metric("bytes", DOWN, "peak resident memory of the process after the speed measurement"),
    "model_bytes": Metric("bytes", DOWN, "weights of the served experts on disk", ("unquantized_bytes",)),
    "unquantized_bytes": Metric("bytes", DOWN, "the same experts before quantization"),
    "rotation_error_radians": Metric("rad", DOWN, "RotErr: summed angle between recovered and commanded rotations"),
    "translation_error": Metric("model units", DOWN, "TransErr: summed distance of recovered and commanded positions, scale aligned"),
    "camera_motion_consistency": Metric("", DOWN, "CamMC: summed Frobenius distance of [R|t], scale aligned"),
    "trajectory_error": Metric("model units", DOWN, "ATE: RMS distance of camera centres after Sim(3) alignment"),
    "vbench_quality": Metric("%", UP, "VBench-I2V Quality as the paper has it, from raw scores"),
    "vbench_average": Metric("%", UP, "mean of VBench-I2V's eight raw scores"),
    "vbench_official": Metric("%", UP, "VBench-I2V score from scores stretched to the official ranges"),
}  # fmt: skip
