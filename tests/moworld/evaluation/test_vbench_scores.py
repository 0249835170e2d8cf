"""VBench's rules for one video against slow derivations frame by frame, and on videos with known scores."""

import math

import numpy as np
import pytest

from moworld.evaluation.vbench_scores import (
    consistency,
    dynamic_threshold,
    first_frame_kept,
    flow_speed,
    is_dynamic,
    sampled_for_flow,
    smoothness,
)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return max(0.0, dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b)))


@pytest.fixture
def features():
    return np.random.default_rng(3).normal(1.5, 1, (7, 5))


def test_consistency_is_the_mean_similarity_to_the_previous_and_the_first_frame(features):
    expected = [(cosine(features[t], features[t - 1]) + cosine(features[t], features[0])) / 2 for t in range(1, 7)]
    assert consistency(features) == pytest.approx(expected)


def test_first_frame_kept_combines_best_mean_and_worst_similarity(features):
    picture = np.random.default_rng(4).normal(-0.2, 1, 5)
    best = max(cosine(picture, frame) for frame in features)
    between = [cosine(features[t], features[t - 1]) for t in range(1, 7)]
    assert first_frame_kept(picture, features) == pytest.approx(0.4 * best + 0.3 * sum(between) / 6 + 0.3 * min(between))


def test_a_static_video_is_consistent_smooth_and_not_dynamic(features):
    still = np.tile(features[:1], (6, 1))
    assert consistency(still) == pytest.approx(np.ones(5))
    assert first_frame_kept(features[0], still) == pytest.approx(1.0)
    frames = np.full((7, 4, 6, 3), 90, dtype=np.uint8)
    assert smoothness(frames, frames[:3]) == 1.0
    assert not is_dynamic([flow_speed(np.zeros((2, 64, 96)))] * 6, 64, 96)


def test_similarity_ignores_the_norm_of_features_and_is_at_least_0(features):
    assert consistency(features * np.arange(1, 8)[:, None]) == pytest.approx(consistency(features))
    assert consistency(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx([0.0])


@pytest.mark.parametrize("count", [3, 4, 7, 8])
def test_smoothness_compares_odd_frames_with_interpolated_ones(count):
    generator = np.random.default_rng(count)
    frames = generator.integers(0, 256, (count, 3, 4, 3), dtype=np.uint8)
    interpolated = generator.integers(0, 256, (len(frames[::2]) - 1, 3, 4, 3), dtype=np.uint8)
    total = 0.0
    for pair in range(len(interpolated)):
        values = [abs(int(a) - int(b)) for a, b in zip(frames[2 * pair + 1].ravel(), interpolated[pair].ravel(), strict=True)]
        total += sum(values) / len(values)
    assert smoothness(frames, interpolated) == pytest.approx((255 - total / len(interpolated)) / 255)


def test_smoothness_of_opposite_frames_is_0():
    frames = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    assert smoothness(frames, np.full((1, 2, 2, 3), 255, dtype=np.uint8)) == 0.0


@pytest.mark.parametrize(("frames", "between"), [(2, 1), (5, 1), (5, 3), (1, 0)])
def test_a_wrong_number_of_interpolated_frames_is_refused(frames, between):
    with pytest.raises(ValueError, match="interpolated"):
        smoothness(np.zeros((frames, 2, 2, 3), dtype=np.uint8), np.zeros((between, 2, 2, 3), dtype=np.uint8))


def test_flow_speed_is_the_mean_length_of_the_fastest_twentieth():
    flow = np.random.default_rng(0).normal(0, 3, (2, 33, 47))
    lengths = sorted((math.hypot(u, v) for u, v in zip(flow[0].ravel(), flow[1].ravel(), strict=True)), reverse=True)
    count = int(33 * 47 * 0.05)
    assert flow_speed(flow) == pytest.approx(sum(lengths[:count]) / count)


@pytest.mark.parametrize(
    ("frames", "moving", "answer"), [(16, 3, False), (16, 4, True), (40, 9, False), (40, 10, True), (6, 1, False), (6, 2, True)]
)
def test_a_quarter_of_the_sampled_frames_must_move(frames, moving, answer):
    limit = 6.0 * 240 / 256
    speeds = [limit + 0.01] * moving + [limit] * (frames - 1 - moving)  # the threshold itself does not count
    assert is_dynamic(speeds, 240, 320) is answer
    assert is_dynamic(speeds[::-1], 320, 240) is answer


def test_two_sampled_frames_are_dynamic_and_one_is_not():
    assert is_dynamic([0.0], 64, 64)
    assert not is_dynamic([], 64, 64)


def test_the_threshold_is_proportional_to_the_shorter_side():
    assert dynamic_threshold(480, 832) == pytest.approx(6 * 480 / 256) == dynamic_threshold(832, 480)


@pytest.mark.parametrize(
    ("fps", "expected"), [(24, [0, 3, 6, 9]), (16, [0, 2, 4, 6, 8, 10]), (30, [0, 4, 8]), (8, list(range(12))), (3, list(range(12)))]
)
def test_flow_is_sampled_about_8_times_per_second(fps, expected):
    assert list(sampled_for_flow(12, fps)) == expected
