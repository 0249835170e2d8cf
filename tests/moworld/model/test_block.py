"""What a block computes in another way than Diffusers, against Diffusers' way."""

import copy

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from kernels.int8_linear import int8_linear
from moworld.model.attention import KeptText
from moworld.model.block import TransformerBlock, gelu
from moworld.model.int8 import Int8Linear, quantize_structure, replace_module, replaceable_linears, side_by_side
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
    ours = copy.deepcopy(theirs)
    TransformerBlock.adopt(ours)
    modulation = torch.randn(2, 6, 6, 48) if per_token else torch.randn(2, 6, 48)
    return ours, theirs, (torch.randn(2, 6, 48), torch.randn(2, 5, 48), modulation)


@torch.no_grad()
def test_a_block_equals_diffusers_to_the_bit():
    for per_token in (False, True):
        ours, theirs, given = block(per_token)
        cosines, sines = angles(6, 24)
        assert torch.equal(ours(*given, (cosines, sines))[0], theirs(*given, (cosines, sines)))


@torch.no_grad()
def test_keys_alone_are_those_of_the_whole_block_and_kept_text_is_read():
    ours, _, (x, text, modulation) = block(per_token=False)
    cosines, sines = angles(6, 24)
    (kept,) = KeptText.rooms(1)
    after, own = ours(x, text, modulation, (cosines, sines), text_kept=kept)
    same, alone = ours(x, text, modulation, (cosines, sines), keys_alone=True)
    assert same is x and all(torch.equal(a, b) for a, b in zip(own, alone, strict=True))
    other_text = ours(x, torch.zeros_like(text), modulation, (cosines, sines), text_kept=kept)[0]
    assert torch.equal(other_text, after)  # its keys and values came from what was kept
    assert not torch.equal(ours(x, torch.zeros_like(text), modulation, (cosines, sines))[0], after)


def int8_layers() -> list[Int8Linear]:
    torch.manual_seed(0)
    return [Int8Linear.from_linear(torch.nn.Linear(24, width)) for width in (24, 24, 8)]


def test_layers_side_by_side_give_what_each_gives_and_are_kept_once():
    layers, x = int8_layers(), torch.randn(2, 7, 24)
    expected = [layer(x) for layer in layers]
    states = [{key: value.clone() for key, value in layer.state_dict().items()} for layer in layers]
    memory = None
    for _ in range(2):  # at first they are joined, then found joined
        weight, scale, bias = side_by_side(layers)
        for part, wanted in zip(int8_linear(x, weight, scale, bias).split([24, 24, 8], dim=-1), expected, strict=True):
            assert torch.equal(part, wanted)
        assert memory in (None, weight.data_ptr())
        memory = weight.data_ptr()
        assert all(layer.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() for layer in layers)
    for layer, state, wanted in zip(layers, states, expected, strict=True):
        assert torch.equal(layer(x), wanted)
        assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())


def test_layers_that_were_changed_copied_or_swapped_are_joined_anew():
    layers, x = int8_layers(), torch.randn(3, 24)
    side_by_side(layers)
    layers[1].load_state_dict(int8_layers()[0].state_dict())  # in place: seen at once
    assert torch.equal(int8_linear(x, *side_by_side(layers))[:, 24:48], layers[1](x))
    for others in (copy.deepcopy(layers), [layers[1], layers[0], layers[2]]):
        expected = torch.cat([layer(x) for layer in others], dim=-1)
        assert torch.equal(int8_linear(x, *side_by_side(others)), expected)


@torch.no_grad()
def test_an_int8_transformer_computes_the_same_after_it_was_copied_and_loaded():
    torch.manual_seed(0)
    given = {"hidden_states": torch.randn(1, 36, 2, 4, 4), "timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 3, 16)}
    transformer = MoWorldTransformer3DModel(**SIZES).eval()
    for name, linear in replaceable_linears(transformer).items():
        replace_module(transformer, name, Int8Linear.from_linear(linear))
    expected = transformer(**given)
    assert torch.equal(copy.deepcopy(transformer)(**given), expected)
    loaded = MoWorldTransformer3DModel(**SIZES).eval()
    quantize_structure(loaded)
    loaded(**given)  # fused with other values in it
    loaded.load_state_dict(transformer.state_dict())
    assert torch.equal(loaded(**given), expected)
