"""Sample order: a pure function of the sample number, equal for any number of ranks, and resumable."""

import os
from collections import Counter
from itertools import islice
from pathlib import Path

import fsspec
import pytest
import torch

from moworld.data.features import FeatureStore
from moworld.data.loader import batches, sample_window
from moworld.errors import InputError
from tests.moworld.data.test_features import write


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    write(tmp_path, {"a": 9, "b": 5, "c": 12, "short": 2})
    return FeatureStore(tmp_path)


def take(store: FeatureStore, steps: int, **options) -> list[dict[str, torch.Tensor]]:
    return list(islice(batches(store, "train", num_latents=4, seed=5, **options), steps))


def test_a_batch_has_the_shapes_that_training_reads(store: FeatureStore):
    (batch,) = take(store, 1, batch=3)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        "latents": (3, 16, 4, 2, 3),
        "c2w": (3, 13, 4, 4),
        "intrinsics": (3, 13, 4),
        "text": (3, 4, 8),
        "first_latent": (3,),
    }
    assert batch["first_latent"].dtype == torch.int64


def test_poses_stay_in_the_clips_own_world(store: FeatureStore):
    clips = [row for row in store.clips if row.num_latents >= 4]
    (batch,) = take(store, 1, batch=6)
    for place in range(6):
        clip, start = sample_window(clips, 4, seed=5, sample=place)
        assert int(batch["first_latent"][place]) == start
        assert torch.equal(batch["c2w"][place], store.read_window(clip.clip_id, start, 4)["c2w"])


def test_two_ranks_together_see_what_one_rank_sees(store: FeatureStore):
    alone = take(store, 4, batch=4)
    ranks = [take(store, 4, batch=4, rank=rank, world_size=2) for rank in range(2)]
    for step, whole in enumerate(alone):
        for name, tensor in whole.items():
            assert torch.equal(torch.cat([ranks[rank][step][name] for rank in range(2)]), tensor)


def test_a_run_resumes_where_it_stopped(store: FeatureStore):
    whole, rest = take(store, 5, batch=2), take(store, 2, batch=2, start_step=3)
    for one, other in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_epoch_visits_each_clip_once_and_starts_cover_the_clip(store: FeatureStore):
    clips = [row for row in store.clips if row.num_latents >= 4]
    drawn = [sample_window(clips, 4, seed=1, sample=i) for i in range(3 * 200)]
    for epoch in range(200):
        assert Counter(clip.clip_id for clip, _ in drawn[3 * epoch : 3 * epoch + 3]) == {"a": 1, "b": 1, "c": 1}
    assert {start for clip, start in drawn if clip.clip_id == "a"} == set(range(6))
    assert drawn != [sample_window(clips, 4, seed=2, sample=i) for i in range(3 * 200)]


def test_no_clip_as_long_as_the_window_is_an_input_error_that_names_the_longest(store: FeatureStore):
    with pytest.raises(InputError, match="at most 45 frames"):
        next(batches(store, "train", num_latents=20, batch=1, seed=0))
    with pytest.raises(InputError, match="validation"):
        next(batches(store, "validation", num_latents=4, batch=1, seed=0))
    with pytest.raises(InputError, match="3 samples for 2 ranks"):
        next(batches(store, "train", num_latents=4, batch=3, seed=0, world_size=2))


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_however_far_ahead_and_from_wherever_the_batches_are_the_same(store: FeatureStore, ahead: int):
    remote = fsspec.filesystem("memory")
    remote.put(f"{store.path}/", "/loader/", recursive=True)
    local, fetched = take(store, 5, batch=2, ahead=ahead), take(FeatureStore("memory://loader"), 5, batch=2, ahead=ahead)
    remote.rm("/loader", recursive=True)
    for one, other, known in zip(local, fetched, take(store, 5, batch=2), strict=True):
        assert all(torch.equal(one[name], known[name]) and torch.equal(other[name], known[name]) for name in known)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the operating system has no posix_fadvise")
def test_every_range_is_prefetched_two_batches_before_it_is_read(store: FeatureStore, monkeypatch: pytest.MonkeyPatch):
    events: list[tuple[str, int, int]] = []
    advise, read = os.posix_fadvise, os.preadv

    def advised(file: int, start: int, size: int, advice: int) -> None:
        events.append(("advised", start, size))
        advise(file, start, size, advice)

    def was_read(file: int, buffers: list, start: int) -> int:
        events.append(("read", start, sum(len(buffer) for buffer in buffers)))
        return read(file, buffers, start)

    monkeypatch.setattr(os, "posix_fadvise", advised)
    monkeypatch.setattr(os, "preadv", was_read)
    coming = batches(store, "train", num_latents=4, batch=2, seed=5, ahead=2)
    for _ in range(3):
        next(coming)
    advised_ranges, reads = ([event[1:] for event in events if event[0] == kind] for kind in ("advised", "read"))
    ranges = 2 * 4  # of a batch: two windows of latents, text, poses and intrinsics
    assert len(reads) == 3 * ranges and advised_ranges[: len(reads)] == reads and len(advised_ranges) == 5 * ranges
    assert [event[0] for event in events[: 3 * ranges]] == ["advised"] * 3 * ranges  # three batches are advised before the first is read


def test_a_shard_that_was_cut_short_meanwhile_is_an_input_error(store: FeatureStore):
    coming = batches(store, "train", num_latents=4, batch=2, seed=5)
    next(coming)
    for shard in Path(store.path).glob("*.safetensors"):
        os.truncate(shard, 64)
    with pytest.raises(InputError, match="cut short"):
        for _ in range(4):
            next(coming)
