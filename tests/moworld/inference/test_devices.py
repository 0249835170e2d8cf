"""Every serving path with its tensors on a fake accelerator: a tensor that is left on the CPU raises.

Fake tensors have no bytes, so messages between ranks are packed and unpacked without being sent.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from moworld.devices import pick_device
from moworld.errors import InputError
from moworld.inference.quantization import QuantizeSettings, load_quantized, quantize_experts
from moworld.inference.ranks import pack_window, split_ranks, unpack_window
from moworld.inference.residency import load_on_demand
from moworld.inference.session import WorldSession
from moworld.model.sequence import SequenceMesh, rank_device
from moworld.model.world import WorldModel
from tests.moworld.inference.accelerator import fake_accelerator
from tests.moworld.inference.worlds import Letters, picture, served_world

ANY_ERROR = QuantizeSettings(max_layer_error=1e9)  # the numbers of fake tensors are invented


def one_module_at_a_time(folder, device):
    world = load_on_demand(folder, 10**9, device=device)
    residency = world.denoiser.residency
    residency.plan = replace(residency.plan, resident=frozenset(), overlap=False)
    return world


LOADERS = {
    "resident": WorldModel.load,
    "on demand": one_module_at_a_time,
    "INT8": WorldModel.load,
    "converted while loading": lambda folder, device: load_quantized(folder, ANY_ERROR, device)[0],
}
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


def saved(folder, quantized: bool = False, **model):
    world = served_world(folder / "codec", **model)
    if quantized:
        quantize_experts(world, QuantizeSettings())
    world.save(folder / "model")
    return folder / "model"


def walk(world: WorldModel) -> WorldSession:
    """Plays until the history bank is larger than the context."""
    session = WorldSession(world, Letters())
    frames = [session.open(picture(), "a hall"), *(session.step("wl*12") for _ in range(3))]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.uint8 for part in frames)
    return session


@pytest.mark.parametrize("history", ["joint", "block_causal"])
@pytest.mark.parametrize("path", LOADERS)
def test_a_world_is_served_on_the_accelerator(tmp_path, path, history):
    folder = saved(tmp_path, path == "INT8", history_attention=history)
    with fake_accelerator():
        world = LOADERS[path](folder, "cuda")
        session = walk(world)
        assert world.device.type == session.rollout.bank.latents.device.type == session.rollout.text.device.type == "cuda"
        tensors = [tensor for _, expert in world.experts.named_experts() for tensor in expert.state_dict().values()]
        assert {tensor.device.type for tensor in tensors} <= {"cuda", "meta"}


@pytest.mark.parametrize(("ranks", "history"), [(2, "joint"), (6, "block_causal")])
def test_a_rank_denoises_its_tokens_of_a_window_on_the_accelerator(tmp_path, ranks, history):
    """Two ranks share the heads; six are a ring of three such pairs."""
    folder, (ulysses, ring) = saved(tmp_path, history_attention=history), split_ranks(2, ranks)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        across, inside = (dist.new_group(list(range(size))) for size in (ulysses, ring))
        sequence = SequenceMesh(across, inside, dist.new_group(list(range(ranks))), ulysses, ring, 0)
        with fake_accelerator():
            world = WorldModel.load(folder, "cuda")
            session = WorldSession(world, Letters())
            session.open(picture(), "a hall")
            session.step("w*12")
            sent = []
            session.rollout.denoise = lambda *arguments: sent.append(arguments) or world.denoiser.denoise(*arguments)
            session.step("w*12")
            message = {name: tensor.cpu() for name, tensor in pack_window(*sent[0]).items()}
            for _, expert in world.experts.named_experts():
                expert.share_sequence(sequence)
            window, schedule, noise = unpack_window(message, "cuda")
            latents = world.denoiser.denoise(window, schedule, noise)
            assert latents.device.type == "cuda" and latents.shape == window.shape
    finally:
        dist.destroy_process_group()


def test_bfloat16_weights_stay_so_on_the_accelerator_and_become_float32_on_cpus(tmp_path):
    folder = saved(tmp_path, quantized=True)
    assert {value.dtype for value in WorldModel.load(folder).experts.parameters()} == {torch.float32}
    assert {value.dtype for value in WorldModel.load(folder, dtype=torch.bfloat16).experts.parameters()} == {torch.bfloat16}
    with fake_accelerator():
        experts = WorldModel.load(folder, "cuda").experts
        assert {value.dtype for value in experts.parameters()} == {torch.bfloat16}
        layer = experts.high.blocks[0].ffn.net[2]
        assert (layer.weight.dtype, layer.weight_scale.dtype, layer.bias.dtype) == (torch.int8, torch.float32, torch.float32)


def test_a_device_is_named_or_found_and_an_absent_one_is_one_line():
    found = torch.accelerator.current_accelerator(check_available=True)
    assert pick_device().type == (found.type if found is not None and found.type in ("cuda", "npu") else "cpu")
    assert pick_device("cpu") == torch.device("cpu") and rank_device("cpu") == (torch.device("cpu"), "gloo")
    with pytest.raises(InputError, match="--device: found tpu9, expected a device of this machine; use cpu"):
        pick_device("tpu9")
