"""The transformer block against Diffusers' own, and INT8 layers that are joined."""

import copy

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from moworld.kernels.int8_linear import int8_linear
from moworld.model.attention import TextCache
from moworld.model.block import TransformerBlock, gelu
from moworld.model.int8 import Int8Linear, join, join_projections, joined, quantize_structure, replaceable_linears
from moworld.model.transformer import MoWorldTransformer3DModel

SIZES = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 16, "freq_dim": 32}


def angles(tokens: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    turn = torch.randn(1, tokens, 1, depth // 2).repeat_interleave(2, dim=-1)
    return turn.cos(), turn.sin()


def test_gelu_equals_its_tanh_form():
    x = torch.linspace(-30, 30, 4001)
    torch.testing.assert_close(gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)


def block(per_token: bool) -> tuple[TransformerBlock, WanTransformerBlock, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    theirs = WanTransformerBlock(48, 64, 2, "rms_norm_across_heads", cross_attn_norm=True).eval()
    ours = TransformerBlock(48, 64, 2).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    modulation = torch.randn(2, 6, 6, 48) if per_token else torch.randn(2, 6, 48)
    return ours, theirs, (torch.randn(2, 6, 48), torch.randn(2, 5, 48), modulation)


@torch.no_grad()
def test_a_block_equals_diffusers_to_the_bit():
    for per_token in (False, True):
        ours, theirs, given = block(per_token)
        cosines, sines = angles(6, 24)
        assert torch.equal(ours(*given, (cosines, sines))[0], theirs(*given, (cosines, sines)))


@torch.no_grad()
def test_kv_only_gives_the_keys_of_the_whole_block_and_the_text_cache_is_read():
    ours, _, (x, text, modulation) = block(per_token=False)
    rotary, cache = angles(6, 24), TextCache(1)
    after, own = ours(x, text, modulation, rotary, text_cache=cache)
    same, alone = ours(x, text, modulation, rotary, kv_only=True)
    assert same is x and torch.equal(own.key, alone.key) and torch.equal(own.value, alone.value) and own.num_tokens == alone.num_tokens == 6
    other_text = ours(x, torch.zeros_like(text), modulation, rotary, text_cache=cache)[0]
    assert torch.equal(other_text, after)  # keys and values came from the cache
    assert not torch.equal(ours(x, torch.zeros_like(text), modulation, rotary)[0], after)


def int8_layers() -> list[Int8Linear]:
    torch.manual_seed(0)
    return [Int8Linear.from_linear(torch.nn.Linear(24, width)) for width in (24, 24, 8)]


def test_joined_layers_give_the_outputs_of_each_and_share_one_memory():
    layers, x = int8_layers(), torch.randn(2, 7, 24)
    expected = [layer(x) for layer in layers]
    states = [{key: value.clone() for key, value in layer.state_dict().items()} for layer in layers]
    assert joined(layers) is None
    join(layers)
    weight, scale, bias = joined(layers)
    assert torch.equal(int8_linear(x, weight, scale, bias), torch.cat(expected, dim=-1))
    assert all(layer.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() for layer in layers)
    join(layers)
    assert joined(layers)[0].data_ptr() == weight.data_ptr()  # a second call changes nothing
    for layer, state, output in zip(layers, states, expected, strict=True):
        assert torch.equal(layer(x), output)
        assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())


def test_joined_layers_follow_new_values_and_layers_in_another_order_are_not_joined():
    layers, x = int8_layers(), torch.randn(3, 24)
    join(layers)
    layers[1].load_state_dict(int8_layers()[0].state_dict())  # copied in place
    assert torch.equal(int8_linear(x, *joined(layers))[:, 24:48], layers[1](x))
    others = [layers[1], layers[0], layers[2]]
    assert joined(others) is None
    for group in (copy.deepcopy(layers), others):
        expected = torch.cat([layer(x) for layer in group], dim=-1)
        join(group)
        assert torch.equal(int8_linear(x, *joined(group)), expected)


@torch.no_grad()
def test_an_int8_transformer_computes_the_same_after_it_was_copied_and_loaded():
    torch.manual_seed(0)
    given = {
        "hidden_states": torch.randn(1, 36, 2, 4, 4),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 3, 16),
    }
    transformer = MoWorldTransformer3DModel(**SIZES).eval()
    for name, linear in replaceable_linears(transformer).items():
        transformer.set_submodule(name, Int8Linear.from_linear(linear))
    expected = transformer(**given).sample
    assert torch.equal(copy.deepcopy(transformer)(**given).sample, expected)
    loaded = MoWorldTransformer3DModel(**SIZES).eval()
    quantize_structure(loaded)
    join_projections(loaded)  # with other values in it
    loaded.load_state_dict(transformer.state_dict())
    assert torch.equal(loaded(**given).sample, expected)
