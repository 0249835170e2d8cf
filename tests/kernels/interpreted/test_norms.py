"""The two norms, with their modulation and rotation, against their references."""

import pytest
import torch

from kernels.modulated_norm import reference as modulated_reference
from kernels.modulated_norm import triton_kernel as modulated
from kernels.qk_norm_rope import reference as qk_reference
from kernels.qk_norm_rope import triton_kernel as qk
from tests.tolerances import tolerance

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "per_token"), [(5, False), (5, True), (1, False)])
@pytest.mark.parametrize("width", [24, 2100])  # one tile, and more than one where a row does not stay in registers
@pytest.mark.parametrize("columns", [0, 16384])
def test_modulated_norm_is_the_reference(tokens, per_token, width, dtype, columns, monkeypatch):
    monkeypatch.setattr(modulated, "ONE_PASS_COLUMNS", columns)
    x = (3 * torch.randn(2, tokens, 2 * width) + 2).to(dtype)[..., :width]  # rows apart
    scale, shift = (torch.randn(2, tokens if per_token else 1, width) for _ in range(2))
    found = modulated.modulated_norm(x, scale, shift, 1e-2)
    assert found.dtype == dtype and found.is_contiguous()
    torch.testing.assert_close(found, modulated_reference.modulated_norm(x, scale, shift, 1e-2), **tolerance("modulated_norm", dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angles_of", [1, 2])
@pytest.mark.parametrize(("heads", "dim"), [(3, 8), (5, 24), (24, 96)])  # one tile, no power of two, more heads than a tile holds
@pytest.mark.parametrize("columns", [0, 8192])
def test_qk_norm_rope_is_the_reference(heads, dim, angles_of, dtype, columns, monkeypatch):
    monkeypatch.setattr(qk, "ONE_PASS_COLUMNS", columns)
    width = heads * dim
    query, key, _ = torch.randn(2, 4, 3 * width).to(dtype).chunk(3, dim=-1)  # parts of one projection
    weights = [(1 + 0.3 * torch.randn(width)).to(dtype) for _ in range(2)]
    angles = (10 * torch.rand(angles_of, 4, 1, dim // 2)).repeat_interleave(2, dim=-1)
    found = qk.qk_norm_rope(query, key, *weights, angles.cos(), angles.sin(), 1e-2)
    for one, other in zip(found, qk_reference.qk_norm_rope(query, key, *weights, angles.cos(), angles.sin(), 1e-2), strict=True):
        assert one.shape == (2, 4, heads, dim) and one.dtype == dtype
        torch.testing.assert_close(one, other, **tolerance("qk_norm_rope", dtype))


def test_a_program_takes_more_than_one_row_where_there_are_more_rows_than_programs(monkeypatch):
    monkeypatch.setattr(modulated, "MOST_PROGRAMS", 3)
    monkeypatch.setattr(qk, "MOST_PROGRAMS", 3)
    x, scale, shift = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    expected = modulated_reference.modulated_norm(x, scale, shift, 1e-2)
    torch.testing.assert_close(modulated.modulated_norm(x, scale, shift, 1e-2), expected, **tolerance("modulated_norm"))
    angles, weight = torch.rand(2, 5, 1, 4).repeat_interleave(2, dim=-1), torch.ones(8)
    found = qk.qk_norm_rope(x, scale, weight, weight, angles.cos(), angles.sin(), 1e-2)
    expected = qk_reference.qk_norm_rope(x, scale, weight, weight, angles.cos(), angles.sin(), 1e-2)
    torch.testing.assert_close(found, expected, **tolerance("qk_norm_rope"))


def test_modulations_of_one_sample_are_read_once_and_those_that_lie_apart_where_they_lie():
    x, parts = torch.randn(1, 7, 24), torch.randn(1, 7, 6, 24)
    for scale, shift in (
        (torch.randn(1, 1, 24), torch.randn(1, 1, 24)),
        (parts[:, :, 1], parts[:, :, 4]),
        (parts[:, :, 1], torch.randn(1, 7, 24)),
    ):
        found, expected = modulated.modulated_norm(x, scale, shift, 1e-2), modulated_reference.modulated_norm(x, scale, shift, 1e-2)
        torch.testing.assert_close(found, expected, **tolerance("modulated_norm"))
