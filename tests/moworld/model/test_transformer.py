"""The transformer against Diffusers' own, and MoWorld's additions."""

import subprocess
import sys

import pytest
import torch
from diffusers import WanTransformer3DModel

from moworld.model.transformer import MoWorldTransformer3DModel

SIZES = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 16, "freq_dim": 32}


@pytest.fixture
def pair() -> tuple[MoWorldTransformer3DModel, WanTransformer3DModel]:
    """Ours and Diffusers', with the same weights."""
    torch.manual_seed(0)
    ours = MoWorldTransformer3DModel(in_channels=36, **SIZES).eval()
    theirs = WanTransformer3DModel(in_channels=36, **SIZES).eval()
    shared = {key: value for key, value in ours.state_dict().items() if not key.startswith("control_adapter.")}
    theirs.load_state_dict(shared, strict=True)
    return ours, theirs


def inputs(frames: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 36, frames, 4, 6, generator=generator),
        "timestep": torch.tensor([900.0, 100.0]),
        "encoder_hidden_states": torch.randn(2, 5, 16, generator=generator),
    }


def rays(frames: int = 3) -> torch.Tensor:
    return torch.randn(2, 24, frames, 32, 48, generator=torch.Generator().manual_seed(2))


def test_zero_gate_equals_diffusers_bit_for_bit(pair) -> None:
    ours, theirs = pair
    expected = theirs(**inputs(), return_dict=False)[0]
    assert torch.equal(ours(**inputs()).sample, expected)
    assert torch.equal(ours(*inputs().values(), None, False)[0], expected)  # Diffusers' arguments in its order
    assert torch.equal(ours(**inputs(), camera=rays()).sample, expected)


def test_a_seed_gives_the_weights_that_it_gives_diffusers() -> None:
    made = []
    for kind in (MoWorldTransformer3DModel, WanTransformer3DModel):
        torch.manual_seed(3)
        made.append(kind(in_channels=36, **SIZES).state_dict())
    assert all(torch.equal(made[0][key], value) for key, value in made[1].items())


def test_a_model_is_opened_without_libraries_that_take_as_long_to_import_as_torch() -> None:
    script = (
        "import sys; from moworld.model.world import WorldModel; WorldModel.load('models/pocket-long');"
        "print({'diffusers', 'transformers', 'scipy', 'sympy', 'torch._dynamo'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_gate_of_1_makes_the_camera_effective(pair) -> None:
    ours, _ = pair
    before = ours(**inputs()).sample
    ours.control_adapter.gate.data.fill_(1.0)
    assert (ours(**inputs(), camera=rays()).sample - before).abs().max() > 1e-3


def test_timesteps_per_token_equal_diffusers_bit_for_bit(pair) -> None:
    ours, theirs = pair
    given = inputs()
    given["timestep"] = torch.tensor([[0.0] * 6 + [700.0] * 12, [0.0] * 6 + [300.0] * 12])
    assert torch.equal(ours(**given).sample, theirs(**given, return_dict=False)[0])


def test_timesteps_per_frame_equal_timesteps_per_token(pair) -> None:
    ours, _ = pair
    per_frame, per_token = inputs(), inputs()
    per_frame["timestep"] = torch.tensor([[0.0, 700.0, 700.0], [0.0, 300.0, 300.0]])
    per_token["timestep"] = per_frame["timestep"].repeat_interleave(6, dim=1)
    torch.testing.assert_close(ours(**per_frame).sample, ours(**per_token).sample)


def test_global_ids_from_zero_equal_the_default_and_a_common_offset_changes_nothing(pair) -> None:
    """Rotary attention depends on differences of positions only."""
    ours, _ = pair
    default = ours(**inputs()).sample
    assert torch.equal(ours(**inputs(), frame_ids=torch.arange(3)).sample, default)
    torch.testing.assert_close(ours(**inputs(), frame_ids=torch.arange(3) + 500).sample, default, rtol=1e-4, atol=1e-4)
    assert (ours(**inputs(), frame_ids=torch.tensor([0, 7, 30])).sample - default).abs().max() > 1e-4


def test_ids_beyond_the_table_extend_it_without_changing_earlier_positions(pair) -> None:
    rope = pair[0].rope
    before = rope(torch.tensor([1, 2, 1023]), 4, 6)
    cos, sin = rope(torch.tensor([1, 2, 5000]), 4, 6)
    assert rope.freqs_cos.shape[0] >= 5001
    assert torch.equal(cos[:, :12], before[0][:, :12]) and torch.equal(sin[:, :12], before[1][:, :12])
    assert torch.equal(rope(torch.tensor([1, 2, 1023]), 4, 6)[0], before[0])
