"""The two norms, with their modulation and rotation, against their references."""

import pytest
import torch

from moworld.kernels.modulated_norm import reference as modulated_reference
from moworld.kernels.modulated_norm import triton_kernel as modulated
from moworld.kernels.qk_norm_rope import reference as qk_reference
from moworld.kernels.qk_norm_rope import triton_kernel as qk
from tests.tolerances import tolerance

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("tokens", "per_token", "width", "dtype"),
    [
        *((5, per_token, width, torch.float32) for per_token in (False, True) for width in (24, 2100)),
        (1, False, 24, torch.float32),
        *((5, True, 24, dtype) for dtype in HALF),
    ],
)
def test_modulated_norm_is_the_reference(tokens, per_token, width, dtype):
    x = (3 * torch.randn(2, tokens, 2 * width) + 2).to(dtype)[..., :width]  # rows with a gap
    scale, shift = (torch.randn(2, tokens if per_token else 1, width) for _ in range(2))
    found = modulated.modulated_norm(x, scale, shift, 1e-2)
    assert found.dtype == dtype and found.is_contiguous()
    torch.testing.assert_close(found, modulated_reference.modulated_norm(x, scale, shift, 1e-2), **tolerance("modulated_norm", dtype))


@pytest.mark.parametrize(
    ("heads", "dim", "angles_of", "dtype"),
    [
        *((*sizes, angles_of, torch.float32) for sizes in ((3, 8), (24, 96)) for angles_of in (1, 2)),
        *((5, 24, 2, dtype) for dtype in (torch.float32, *HALF)),
    ],
)
def test_qk_norm_rope_is_the_reference(heads, dim, angles_of, dtype):
    width = heads * dim
    query, key, _ = torch.randn(2, 4, 3 * width).to(dtype).chunk(3, dim=-1)  # parts of one projection
    weights = [(1 + 0.3 * torch.randn(width)).to(dtype) for _ in range(2)]
    angles = (10 * torch.rand(angles_of, 4, 1, dim // 2)).repeat_interleave(2, dim=-1)
    found = qk.qk_norm_rope(query, key, *weights, angles.cos(), angles.sin(), 1e-2)
    for one, other in zip(found, qk_reference.qk_norm_rope(query, key, *weights, angles.cos(), angles.sin(), 1e-2), strict=True):
        assert one.shape == (2, 4, heads, dim) and one.dtype == dtype
        torch.testing.assert_close(one, other, **tolerance("qk_norm_rope", dtype))


def test_one_modulation_is_read_once_and_strided_ones_in_place(monkeypatch):
    monkeypatch.setattr(modulated, "PROGRAMS_PER_PROCESSOR", 3)  # so that a program takes more than one row
    x, parts = torch.randn(1, 7, 24), torch.randn(1, 7, 6, 24)
    for scale, shift in (
        (torch.randn(1, 1, 24), torch.randn(1, 1, 24)),
        (parts[:, :, 1], parts[:, :, 4]),
        (parts[:, :, 1], torch.randn(1, 7, 24)),
    ):
        found, expected = modulated.modulated_norm(x, scale, shift, 1e-2), modulated_reference.modulated_norm(x, scale, shift, 1e-2)
        torch.testing.assert_close(found, expected, **tolerance("modulated_norm"))
