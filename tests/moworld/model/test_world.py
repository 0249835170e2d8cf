"""A world model's folder: round trip, determinism, and missing or unknown files and keys."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from moworld.distillation.autoregressive import random_window
from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.model.window import predict_velocity
from moworld.model.world import WEIGHTS, WorldModel
from tests.moworld.worlds import tiny_batch, tiny_world


def same_weights(one: WorldModel, other: WorldModel) -> bool:
    a, b = one.experts.state_dict(), other.experts.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_folder_round_trips(tmp_path):
    world = tiny_world(seed=5)
    world.save(tmp_path / "model", losses={"high": [[0, 1.0]]})
    again = WorldModel.load(tmp_path / "model")
    assert again.config == world.config and same_weights(again, world)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "losses.json",
        "model_index.json",
        "transformer",
        "transformer_2",
    ]


def test_the_seed_decides_every_byte(tmp_path):
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny_world(seed=seed).save(tmp_path / name)
        hashes.append(sha256_tree(tmp_path / name))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_experts_differ_and_the_level_selects_one():
    experts = tiny_world().experts
    assert not torch.equal(experts.high.patch_embedding.weight, experts.low.patch_embedding.weight)
    assert experts.at(0.9) is experts.high and experts.at(0.899) is experts.low and experts.at(1.0) is experts.high


@pytest.mark.parametrize(("missing", "words"), [("model_index.json", "model_index.json"), (f"transformer_2/{WEIGHTS}", WEIGHTS)])
def test_a_missing_file_is_named(tmp_path, missing, words):
    tiny_world().save(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(InputError, match=words):
        WorldModel.load(tmp_path / "model")


def test_missing_and_unknown_keys_are_counted_and_named(tmp_path):
    tiny_world().save(tmp_path / "model")
    path = tmp_path / "model" / "transformer" / WEIGHTS
    weights = load_file(path)
    weights["stray"] = weights.pop("proj_out.bias")
    save_file(weights, path)
    with pytest.raises(InputError, match=r"1 missing and 1 unknown keys, first proj_out\.bias"):
        WorldModel.load(tmp_path / "model")


def test_a_model_without_a_codec_is_an_error():
    with pytest.raises(InputError, match="vae"):
        _ = tiny_world().codec


@pytest.mark.parametrize(("patch_size", "tokens"), [((1, 1, 1), 8), ((1, 2, 2), 2)])
def test_tokens_per_frame_are_those_of_the_blocks(patch_size, tokens):
    """The plans' costs depend on it."""
    world, batch, seen = tiny_world(patch_size=patch_size), tiny_batch(4), []
    window, clean = random_window(batch, world.config.model, torch.Generator())
    world.experts.low.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    with torch.no_grad():
        predict_velocity(world.experts.low, clean, torch.full((2,), 0.5), window)
    frames = clean.shape[2] + window.history.shape[2]
    assert world.config.model.tokens_per_frame(world.config.height, world.config.width) == tokens
    assert seen == [frames * tokens]
