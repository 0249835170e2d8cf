"""Near-duplicates: the same footage is found however it was encoded, scaled or cut; other footage is not."""

import cv2
import numpy as np

from moworld.data.clips import Clip
from moworld.data.duplicates import clip_hashes, with_similarity
from moworld.video import write_video


def footage(seed: int, count: int = 96) -> np.ndarray:
    """A slow pan over a picture of many sizes."""
    generator = np.random.default_rng(seed)
    layers = [cv2.resize(generator.uniform(0, 85, (n, 4 * n, 3)), (960, 240), interpolation=cv2.INTER_CUBIC) for n in (4, 12, 40)]
    picture = np.clip(sum(layers), 0, 255).astype(np.uint8)
    return np.stack([picture[:, 6 * t : 6 * t + 320] for t in range(count)])


def stored(folder, name: str, frames: np.ndarray, crf: int = 18, fps: float = 24.0) -> Clip:
    (folder / "videos").mkdir(exist_ok=True)
    write_video(folder / f"videos/{name}.mp4", frames, fps, crf)
    return Clip(name, "video", name, "train", len(frames), fps, *frames.shape[1:3], f"videos/{name}.mp4", name)


def test_copies_are_found_and_others_are_not(tmp_path):
    original = footage(0)
    small = np.stack([cv2.resize(frame, (160, 120), interpolation=cv2.INTER_AREA) for frame in original])
    darker = (original * 0.8).astype(np.uint8)
    clips = [
        stored(tmp_path, "original", original), stored(tmp_path, "other", footage(1)), stored(tmp_path, "encoded", original, crf=34),
        stored(tmp_path, "scaled", small), stored(tmp_path, "shorter", original[12:60]), stored(tmp_path, "darker", darker),
        stored(tmp_path, "half", np.concatenate([original[:48], footage(2, 48)])),
    ]  # fmt: skip
    found = {clip.clip_id: clip.similarity for clip in with_similarity(clips, [clip_hashes(clip, tmp_path) for clip in clips])}
    assert found["original"] == 0 and found["other"] == 0
    for copy in ("encoded", "scaled", "shorter", "darker"):
        assert found[copy] is not None and found[copy] > 0.9, copy
    assert found["half"] is not None and 0.3 < found["half"] < 0.7


def test_frames_of_nothing_are_like_no_frame(tmp_path):
    flat = np.full((48, 240, 320, 3), 90, np.uint8)
    clips = [stored(tmp_path, name, flat) for name in ("a", "b")]
    assert [clip.similarity for clip in with_similarity(clips, [clip_hashes(clip, tmp_path) for clip in clips])] == [0, 0]


def test_the_bands_find_every_pair_that_comparing_all_pairs_finds():
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (60, 8), dtype=np.uint8)
    hashes = []
    for row in base:  # copies with 0 to 15 bits flipped
        bits = np.unpackbits(row)
        bits[generator.choice(64, generator.integers(0, 16), replace=False)] ^= 1
        hashes += [row[None], np.packbits(bits)[None]]
    clips = [Clip(str(i), "video", "a", "train", 9, 24.0, 9, 9, "v", str(i)) for i in range(len(hashes))]
    found = [clip.similarity for clip in with_similarity(clips, hashes)]
    every = np.concatenate(hashes)
    slow = [float(any(np.unpackbits(every[i] ^ every[j]).sum() <= 7 for j in range(i))) for i in range(len(hashes))]
    assert found == slow and 0 < sum(slow) < len(hashes) // 2 + 1
