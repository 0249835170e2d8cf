"""W8A8 of the experts: replaced layers, errors, and equality of saved and loaded models."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from moworld.distillation.autoregressive import train_autoregressive
from moworld.distillation.settings import AutoregressiveSettings
from moworld.errors import InputError
from moworld.inference.quantization import QuantizeSettings, load_quantized, quantize_experts
from moworld.kernels.int8_linear import int8_linear, quantize_weight
from moworld.model.codec import WEIGHTS, StreamingCodec
from moworld.model.int8 import Int8Linear, replaceable_linears
from moworld.model.latent_cameras import LatentCameras
from moworld.model.window import predict_velocity
from moworld.model.world import WorldModel
from moworld.training.settings import OptimizerSettings
from moworld.training.trainer import Run
from tests.moworld.model.test_rollout import make_rollout
from tests.moworld.worlds import tiny_batch, tiny_world


@torch.no_grad()
def velocity_of(world: WorldModel) -> torch.Tensor:
    world.experts.eval()
    batch = tiny_batch(4)
    window = make_rollout(world, batch).window(_chunk_cameras(batch))
    noisy = torch.randn(window.shape, generator=torch.Generator().manual_seed(1))
    return torch.cat([predict_velocity(world.experts.at(level), noisy, torch.full((2,), level), window) for level in (1.0, 0.5)])


def _chunk_cameras(batch):
    return LatentCameras.from_chunk(batch["intrinsics"][:, 1:], batch["c2w"][:, 1:])


def test_only_the_linears_of_the_blocks_become_int8():
    world = tiny_world(num_layers=2)
    before = {name: type(module) for name, module in world.experts.high.named_modules()}
    report = quantize_experts(world, QuantizeSettings())
    changed = {name for name, module in world.experts.high.named_modules() if type(module) is not before.get(name)}
    assert changed == {f"blocks.{i}.{place}" for i in (0, 1) for place in (
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
        "ffn.net.0.proj", "ffn.net.2")}  # fmt: skip
    assert report["replaced"] == 2 * len(changed) == len(report["layers"])
    assert report["bytes_after"] < report["bytes_before"]
    assert world.config.quantization == "w8a8"


def test_outputs_stay_close_and_errors_are_those_of_the_layers():
    world = tiny_world()
    exact = velocity_of(world)
    report = quantize_experts(world, QuantizeSettings())
    found = velocity_of(world)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05
    assert all(0 < entry["error"] < 0.05 for entry in report["layers"])


@pytest.mark.parametrize("settings", [{}, {"history_attention": "block_causal"}])
def test_a_saved_and_loaded_model_gives_the_same_outputs(tmp_path, settings):
    world = tiny_world(**settings)
    report = quantize_experts(world, QuantizeSettings())
    world.save(tmp_path / "model")
    again = WorldModel.load(tmp_path / "model")
    assert isinstance(again.experts.low.blocks[0].ffn.net[2], Int8Linear)
    stored = [load_file(path) for path in sorted(tmp_path.glob("model/*/diffusion_pytorch_model.safetensors")) if "vae" not in str(path)]
    assert sum(tensor.nbytes for tensors in stored for tensor in tensors.values()) == report["bytes_after"]
    assert {str(tensor.dtype) for tensor in stored[0].values()} == {"torch.int8", "torch.bfloat16", "torch.float32"}
    assert torch.equal(velocity_of(again), velocity_of(world))


def test_stored_dtypes_decide_which_layers_are_int8_and_none_at_all_is_refused(tmp_path):
    """Older models have the K and V projections of the text in bfloat16."""
    tiny_world().save(tmp_path / "full")
    world = tiny_world()
    quantize_experts(world, QuantizeSettings())
    world.save(tmp_path / "older")
    whole = load_file(tmp_path / "full" / "transformer" / WEIGHTS)
    for folder in ("transformer", "transformer_2"):
        state = load_file(tmp_path / "older" / folder / WEIGHTS)
        for name in ("blocks.0.attn2.to_k", "blocks.0.attn2.to_v"):
            state |= {f"{name}.{part}": whole[f"{name}.{part}"].bfloat16() for part in ("weight", "bias")}
            del state[f"{name}.weight_scale"]
        save_file(state, tmp_path / "older" / folder / WEIGHTS)
    block = WorldModel.load(tmp_path / "older").experts.high.blocks[0]
    assert torch.equal(block.attn2.to_k.weight, whole["blocks.0.attn2.to_k.weight"].bfloat16().float())
    assert isinstance(block.attn2.to_q, Int8Linear) and not isinstance(block.attn2.to_v, Int8Linear)
    del state["blocks.0.attn1.to_q.weight_scale"]
    save_file(state, tmp_path / "older" / "transformer" / WEIGHTS)
    with pytest.raises(InputError, match=r"1 missing and 0 unknown keys, first blocks.0.attn1.to_q.weight_scale"):
        WorldModel.load(tmp_path / "older")
    index = tmp_path / "full" / "model_index.json"
    index.write_text(index.read_text().replace('"quantization": "none"', '"quantization": "w8a8"'))
    with pytest.raises(InputError, match=r"safetensors: dtypes: found no INT8 weight, .* w8a8"):
        WorldModel.load(tmp_path / "full")


def test_the_codec_of_a_quantized_model_is_stored_in_half_the_bytes_and_its_source_is_unchanged(tmp_path):
    codec = StreamingCodec(hidden=16)
    codec.save_pretrained(tmp_path / "codec")
    weights = tmp_path / "codec" / WEIGHTS
    before = weights.read_bytes()
    world = tiny_world()
    world.codec_folder = tmp_path / "codec"
    world.save(tmp_path / "full")
    assert (tmp_path / "full" / "vae" / WEIGHTS).read_bytes() == before
    quantize_experts(world, QuantizeSettings())
    world.save(tmp_path / "small")
    assert weights.read_bytes() == before
    assert (tmp_path / "small" / "vae" / WEIGHTS).stat().st_size < 0.6 * len(before)
    frames = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    with torch.no_grad():
        exact, stored = (WorldModel.load(tmp_path / name).codec for name in ("full", "small"))
        latents = exact.encode(frames)
        error = (exact.decode(latents) - stored.decode(latents)).abs().max()
    assert 0 < error < 1 / 127.5  # less than one step of a byte


def test_an_int8_layer_equals_the_operator_on_its_quantized_weight():
    linear = torch.nn.Linear(24, 9)
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        expected = int8_linear(x, *quantize_weight(linear.weight), linear.bias)
        assert torch.equal(Int8Linear.from_linear(linear)(x), expected)


def test_quantizing_twice_or_too_roughly_is_refused():
    world = tiny_world()
    with pytest.raises(InputError, match="at most 1e-06"):
        quantize_experts(tiny_world(), QuantizeSettings(max_layer_error=1e-6))
    quantize_experts(world, QuantizeSettings())
    assert not replaceable_linears(world.experts.high)
    with pytest.raises(InputError, match="quantized twice"):
        quantize_experts(world, QuantizeSettings())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_converting_while_loading_equals_converting_saving_and_loading(tmp_path, dtype):
    tiny_world(num_layers=2).save(tmp_path / "full")
    for path in tmp_path.glob(f"full/transformer*/{WEIGHTS}"):
        save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path)
    source = WorldModel.load(tmp_path / "full")
    quantize_experts(source, QuantizeSettings())
    source.save(tmp_path / "int8")
    expected, found = WorldModel.load(tmp_path / "int8"), load_quantized(tmp_path / "full")[0]
    assert found.config == expected.config
    for (_, one), (_, two) in zip(found.experts.named_buffers(), expected.experts.named_buffers(), strict=True):  # rotary tables included
        assert torch.equal(one, two) and one.dtype == two.dtype
    own, other = found.experts.state_dict(), expected.experts.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) and own[key].dtype == other[key].dtype for key in own)
    with pytest.raises(InputError, match=r"int8: quantization: found w8a8 weights, which would be quantized twice"):
        load_quantized(tmp_path / "int8")
    with pytest.raises(InputError, match="at most 1e-06"):
        load_quantized(tmp_path / "full", QuantizeSettings(max_layer_error=1e-6))


def test_a_dequantized_model_has_the_values_of_the_int8_weights_and_learns(tmp_path):
    world = tiny_world()
    exact = velocity_of(world)
    quantize_experts(world, QuantizeSettings())
    layer = world.experts.high.blocks[0].ffn.net[2]
    stored = layer.weight.float() * layer.weight_scale[:, None]
    world.save(tmp_path / "model")
    again = WorldModel.load(tmp_path / "model")
    again.dequantize()
    assert again.config.quantization == "none" and torch.equal(again.experts.high.blocks[0].ffn.net[2].weight, stored)
    assert float((velocity_of(again) - exact).norm() / exact.norm()) < 0.05
    batch = tiny_batch(7)
    settings = AutoregressiveSettings(frames=25, batch=2, steps=2, optimizer=OptimizerSettings(lr=1e-3))
    train_autoregressive(again, settings, Run(lambda start: iter(lambda: batch, None), seed=0))
    assert not torch.equal(again.experts.high.blocks[0].ffn.net[2].weight, stored)
