"""The base of a training: read from published layouts straight into sharded experts, each byte once, in little memory."""

import json
import math
import os
import resource
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save, save_file

from moworld.errors import InputError
from moworld.model.checkpoints import import_model
from moworld.model.checkpoints.base import base_hash, world_from_base
from moworld.model.checkpoints.convert import follows_pitch
from moworld.model.checkpoints.layouts import from_diffusers
from moworld.model.codec import StreamingCodec
from moworld.model.experts import Experts
from moworld.model.settings import BaseSettings
from moworld.model.weights import cast_parameters, gathered, tensors_of
from moworld.model.world import ModelSettings, WorldModel, expert_structure
from moworld.tensors import Shard
from moworld.training.parallel import Ranks, join_ranks
from moworld.training.settings import ParallelSettings
from tests.moworld.model.test_checkpoints import CONFIG, wan_weights, write_sharded
from tests.moworld.ranks import context

A14B = CONFIG.model_copy(update={"model": ModelSettings(num_layers=40, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824,
                                                        freq_dim=256, text_dim=4096)})  # fmt: skip


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    for seed, name in enumerate(("high_noise_model", "low_noise_model")):
        write_sharded(tmp_path / "wan" / name, wan_weights(seed))
    return tmp_path / "wan"


def equal(one: WorldModel, other: WorldModel) -> bool:
    states = [world.experts.state_dict() for world in (one, other)]
    return states[0].keys() == states[1].keys() and all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_streaming_gives_the_weights_of_an_import(wan, tmp_path):
    import_model(str(wan), tmp_path / "ours", CONFIG, seed=5)
    imported = WorldModel.load(tmp_path / "ours")
    for source in (wan, tmp_path / "ours"):  # Wan's layout, Diffusers'
        world = world_from_base(BaseSettings(source=str(source), licence="Apache-2.0"), CONFIG, seed=5)
        assert equal(world, imported) and world.experts.high.control_adapter.gate.item() == 0
        assert (world.config.base, world.config.base_licence) == (str(source), "Apache-2.0")
    assert not equal(world_from_base(BaseSettings(source=str(wan)), CONFIG, seed=6), imported)  # another adapter
    copied = fsspec.filesystem("memory")
    copied.put(str(wan), "/base", recursive=True)
    assert equal(world_from_base(BaseSettings(source="memory://base"), CONFIG, seed=5), imported)


def test_the_published_base_needs_a_low_noise_expert_from_elsewhere(wan, tmp_path):
    (tmp_path / "moworld").mkdir()
    save_file(wan_weights(3, adapter=True), tmp_path / "moworld" / "high_noise_model.safetensors")
    with pytest.raises(InputError, match=r"low: found no low-noise expert.*inputs\.base_low"):
        world_from_base(BaseSettings(source=str(tmp_path / "moworld")), CONFIG, seed=0)
    world = world_from_base(BaseSettings(source=str(tmp_path / "moworld"), low=str(wan)), CONFIG, seed=0)
    assert (world.experts.high.control_adapter.gate.item(), world.experts.low.control_adapter.gate.item()) == (1, 0)
    keys = [key for key in wan_weights(1) if key.startswith("blocks.")]
    own = {from_diffusers(key): value for key, value in world.experts.low.state_dict().items()}
    assert all(torch.equal(own[key], wan_weights(1)[key].float()) for key in keys)


def test_one_expert_is_read_for_a_pool_of_its_own_and_wrong_weights_are_refused(wan):
    world = world_from_base(BaseSettings(source=str(wan)), CONFIG, 0, ["low"])
    assert all(p.is_meta for p in world.experts.high.parameters()) and not any(p.is_meta for p in world.experts.low.parameters())
    larger = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"ffn_dim": 96})})
    with pytest.raises(InputError, match=r"expected.*96.*check the profile's model sizes"):
        world_from_base(BaseSettings(source=str(wan)), larger, 0)
    shard = next((wan / "high_noise_model").glob("*-00002-*"))
    broken = wan_weights(0)
    keys = list(broken)[1::3]
    save_file({**{key: broken[key] for key in keys}, keys[0]: torch.full_like(broken[keys[0]], math.nan)}, shard)
    with pytest.raises(InputError, match="not finite"):
        world_from_base(BaseSettings(source=str(wan)), CONFIG, 0)


def test_the_hash_is_that_of_the_content(wan):
    base = BaseSettings(source=str(wan))
    before = base_hash(base, ("high", "low"))
    assert before == base_hash(base, ("high", "low")) != base_hash(base, ("high",))
    file = next((wan / "high_noise_model").glob("*-00002-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert base_hash(base, ("high", "low")) != before
    with pytest.raises(InputError, match=rf"SHA-256: found .*expected {before[:12]}, as at the start of the run"):
        base_hash(base.model_copy(update={"sha256": before}), ("high", "low"))


def test_a_base_that_is_a_codec_only_gives_fresh_experts_and_is_hashed(tmp_path):
    base = BaseSettings(source=str(tmp_path))
    with pytest.raises(InputError, match="no weights"):
        world_from_base(base, CONFIG, seed=5)
    StreamingCodec(hidden=8).save_pretrained(tmp_path / "vae")
    fresh = WorldModel.create(CONFIG, seed=5).experts.state_dict()
    made = world_from_base(base, CONFIG, seed=5).experts.state_dict()
    assert all(torch.equal(made[key], value) for key, value in fresh.items())
    before = base_hash(base, ("high", "low"))
    StreamingCodec(hidden=8, warp=True).save_pretrained(tmp_path / "vae")
    assert base_hash(base, ("high", "low")) != before


def in_process(work: Any, *arguments: Any) -> Any:
    """Returns `work(*arguments)` of a fresh process, so that process groups and peak memory are its own."""
    receiver, sender = context().Pipe(duplex=False)
    process = context().Process(target=_send, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()  # EOFError if the process failed
    finally:
        process.join(30)


def _send(sender: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    sender.send(work(*arguments))


def fake_ranks(rank: int, world: int, dtype: str = "bfloat16") -> Ranks:
    """Returns one of `world` ranks whose peers do not exist: collectives return at once, with arbitrary values."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    return join_ranks(ParallelSettings(dtype=dtype))


def bytes_read(rank: int, world: int) -> dict[str, Any]:
    """Returns the bytes that one rank reads of a base at a URI, by tensor, and the parts of the tensors that it then holds."""
    system, read, original = fsspec.filesystem("memory"), Counter[str](), Shard.rows
    for seed, name in enumerate(("high_noise_model", "low_noise_model")):
        system.pipe(f"/base/{name}.safetensors", save(wan_weights(seed)))

    def counted(shard: Shard, rows: Any) -> list[torch.Tensor]:
        found = original(shard, rows)
        for (key, *_), value in zip(rows, found, strict=True):
            read[f"{shard.uri} {key}"] += value.nbytes
        return found

    Shard.rows = counted  # type: ignore[method-assign]
    ranks = fake_ranks(rank, world)
    made = world_from_base(BaseSettings(source="memory://base"), CONFIG, 5, place=ranks.place, progress=False)
    return {"read": read, "parts": {key: value.to_local().detach().numpy() for key, value in tensors_of(made.experts).items()}}


def test_ranks_read_each_byte_of_a_uri_once_and_hold_the_whole_together(wan):
    found = [in_process(bytes_read, rank, 3) for rank in range(3)]
    stored = {f"memory://base/{name}.safetensors {key}": value.nbytes
              for seed, name in enumerate(("high_noise_model", "low_noise_model")) for key, value in wan_weights(seed).items()}  # fmt: skip
    assert dict(sum((each["read"] for each in found), Counter())) == stored
    whole = world_from_base(BaseSettings(source=str(wan)), CONFIG, 5).experts.state_dict()
    assert whole.keys() == found[0]["parts"].keys()
    for key, value in whole.items():
        assert torch.equal(torch.cat([torch.from_numpy(each["parts"][key]) for each in found]), value), key


def write_sparse(path: Path, sizes: dict[str, Any]) -> int:
    """Writes an expert's file of zeros with Wan's key names, as a sparse file; returns its bytes."""
    header, offset = {}, 0
    for key, value in expert_structure(sizes).state_dict().items():
        if not key.startswith("control_adapter."):
            end = offset + 2 * value.numel()
            header[from_diffusers(key)] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + offset)
    return offset


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_a14b(folder: str, rank: int, world: int) -> dict[str, int]:
    """Loads one expert of Wan2.2-I2V-A14B on one of `world` ranks; returns bytes of its shard, its largest tensor and the memory used."""
    ranks = fake_ranks(rank, world)
    before = peak_bytes()
    made = world_from_base(BaseSettings(source=folder), A14B, 0, ["high"], ranks.place, progress=False)
    tensors = tensors_of(made.experts.high).values()
    return {
        "shard": sum(value.to_local().nbytes for value in tensors),
        "largest": max(value.numel() * 4 for value in tensors),
        "used": peak_bytes() - before,
    }


@pytest.mark.slow
def test_an_expert_of_28_gb_is_loaded_sharded_within_its_shard_and_one_tensor(tmp_path):
    for name in ("high_noise_model", "low_noise_model"):
        size = write_sparse(tmp_path / f"{name}.safetensors", A14B.model.transformer())
    assert size > 28e9
    found = in_process(load_a14b, str(tmp_path), 31, 32)
    assert 1.7e9 < found["shard"] < 2.2e9  # float32
    assert found["used"] <= 1.5 * found["shard"] + found["largest"], found


def save_sharded(folder: str, first: bool) -> dict[str, int]:
    """Saves two layers of A14B's width, sharded over 32 ranks, as the first or another rank; returns the memory used beside the shard."""
    ranks = fake_ranks(0 if first else 5, 32)
    sizes = {**A14B.model.transformer(), "num_layers": 2}
    expert = expert_structure(sizes)
    cast_parameters(expert, torch.bfloat16)
    ranks.place(expert)
    largest = max(value.numel() * 2 for value in tensors_of(expert).values())
    before = peak_bytes()
    config = A14B.model_copy(update={"experts": ("high",), "model": A14B.model.model_copy(update={"num_layers": 2})})
    WorldModel(config, Experts(expert, None, 0.0)).save(folder, write=first)
    return {"used": peak_bytes() - before, "largest": largest, "whole": sum(value.numel() * 2 for value in tensors_of(expert).values())}


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["first rank", "another"])
def test_saving_holds_one_tensor_at_a_time(tmp_path, first):
    found = in_process(save_sharded, str(tmp_path / "out"), first)
    assert found["whole"] > 2.5e9 and found["used"] <= 2.5 * found["largest"], found
    assert (tmp_path / "out").is_dir() == first


def test_gathered_yields_whole_tensors_on_the_cpu():
    state = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1)}
    found = dict(gathered(state))
    assert all(torch.equal(found[key], value) and found[key].is_contiguous() for key, value in state.items())


def test_a_world_model_states_whether_it_has_learned_to_look_up_and_published_adapters_have(tmp_path):
    assert follows_pitch(str(tmp_path), adapter=True) and not follows_pitch(str(tmp_path), adapter=False)
    for stated, learned in (('"WorldModel"', False), ('"WorldModel", "pitch": true', True), ('"WanImageToVideoPipeline"', True)):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": {stated}}}')
        assert follows_pitch(str(tmp_path), adapter=True) is learned
    base = Path(__file__).parents[3] / "models"
    assert follows_pitch(str(base / "pocket-base"), adapter=False) and not follows_pitch(str(base / "pocket-long"), adapter=True)
