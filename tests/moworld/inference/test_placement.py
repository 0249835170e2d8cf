"""The serving plan: operations and weights against PyTorch's counts of the real modules, and the plan of the paper's sizes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moworld.inference.memory import denoising_bytes
from moworld.inference.placement import _expert_bytes, decoder_costs, denoising_flops, plan_placement
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.inference.session import WorldSession
from moworld.model.codec import StreamingCodec
from moworld.model.costs import parameter_counts
from moworld.model.settings import Device
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.plan import plan_serving
from tests.moworld.inference.worlds import Letters, picture, served_world
from tests.moworld.worlds import tiny_world

SIZES = {"num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 48, "ffn_dim": 768, "text_dim": 8}
DEVICE = Device(
    memory_bytes=64e9, flops=3e14, utilization=0.35, link_bytes_per_second=1.5e11, network_bytes_per_second=2e10, runtime_bytes=3e9
)


@pytest.mark.parametrize("history", ["joint", "block_causal"])
def test_operations_of_a_chunk_equal_the_count_of_pytorch(tmp_path, history):
    world = served_world(tmp_path, history_attention=history, **SIZES)
    session = WorldSession(world, Letters())
    session.open(picture(), "a hall")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        session.denoise("w*12")
    linear, rest = denoising_flops(world.config.model, 16, 32, 4)
    assert linear + rest == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_bytes_of_weights_equal_those_of_the_modules(tmp_path):
    world = tiny_world(**SIZES)
    model = world.config.model
    assert _expert_bytes(model, "bf16") == 2 * parameter_counts(model)[0]
    quantize_experts(world, QuantizeSettings())
    held = world.experts.high
    stored = sum(2 * p.numel() for p in held.parameters()) + sum(b.nbytes for b in held.buffers() if b.dtype == torch.int8)
    biases = 2 * sum(b.numel() for name, b in held.named_buffers() if name.endswith(".bias"))
    assert _expert_bytes(model, "int8") == stored + biases


def test_operations_of_the_decoder_equal_those_of_a_chunk(tmp_path):
    codec = StreamingCodec().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        codec.decode(torch.randn(1, 16, 3, 4, 6))
    count, flops = decoder_costs(32, 48, 3, True)
    assert flops == counter.get_total_flops() > 0
    assert count == sum(p.numel() for name, p in codec.named_parameters() if name.startswith(("decoder", "linear_out", "up")))


def test_the_papers_model_and_decoder_fit_together_on_one_device_only_in_int8():
    _, settings = profiles.load("wan22-a14b")
    rows = {(row["devices"], row["precision"]): row for row in plan_serving(settings, 9)}
    assert sorted({devices for devices, _ in rows}) == [1, 2, 3, 5, 9]
    assert not rows[1, "bf16"]["co_resident"] and rows[1, "int8"]["co_resident"]  # paper 5.4
    assert rows[1, "bf16"]["fits"] and rows[1, "bf16"]["read_seconds"] > 0 == rows[1, "int8"]["read_seconds"]
    assert (rows[9, "int8"]["ulysses"], rows[9, "int8"]["ring"]) == (8, 1)
    rates = [rows[devices, "int8"]["frames_per_second"] for devices in (1, 3, 5, 9)]
    assert rates == sorted(rates) and rates[-1] > 4 * rates[0]


def test_more_devices_share_the_work_until_decoding_is_the_bottleneck():
    model = tiny_world(**{**SIZES, "num_attention_heads": 8}).config.model
    plans = [plan_placement(model, 64, 96, 16, True, devices, DEVICE, "bf16") for devices in (2, 3, 5, 9)]
    assert [plan.compute_seconds * (plan.devices - 1) for plan in plans] == pytest.approx([plans[0].compute_seconds] * 4)
    assert plans[0].exchange_seconds == 0 < plans[1].exchange_seconds
    starved = plan_placement(model, 64, 96, 16, True, 9, DEVICE.model_copy(update={"memory_bytes": 3.001e9}), "bf16")
    assert not starved.fits and not starved.co_resident
    bound = [plan.bound_by for plan in plans]
    assert all(
        bound == "decoding" or plan.compute_seconds + plan.exchange_seconds >= plan.decode_seconds
        for bound, plan in zip(bound, plans, strict=True)
    )
    whole, half = (denoising_bytes(model, 64, 96, 16, 3, share=share) for share in (1, 2))
    assert half < whole
