"""Sample order: a pure function of the sample number, the same however many ranks share it, and resumable."""

from collections import Counter
from itertools import islice
from pathlib import Path

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


def test_a_run_goes_on_where_it_stopped(store: FeatureStore):
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
