"""LayerNorm without weights, then scale and shift by the timestep: Wan's norm before self-attention, feed-forward and output.

The paper's text says RMSNorm (5.4); the model it builds on, and that model's published weights, have LayerNorm.
"""

from torch import Tensor

from moworld.kernels.dispatch import GRADIENTS, Implementation, Operator, needs, wants_gradient


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, backend: str | None = None) -> Tensor:
    """Returns LayerNorm(x) * (1 + scale) + shift over the last dim, computed in float32: (B, N, D) in x.dtype.

    x:            (B, N, D) float32, bfloat16 or float16
    scale, shift: (B, 1, D) per sample, or (B, N, D) per token; float32 as Wan computes them, or x's dtype
    Gradients flow through `reference` and `npu`, not through `triton`.
    Raises ValueError if shapes disagree; NoKernel if the backend cannot run.
    """
    fits = x.ndim == scale.ndim == 3 and scale.shape == shift.shape and scale.shape[0] == x.shape[0]
    if not fits or scale.shape[1] not in (1, x.shape[1]) or scale.shape[2] != x.shape[2]:
        raise ValueError(f"x {tuple(x.shape)}, scale {tuple(scale.shape)} and shift {tuple(shift.shape)} do not fit")
    requires = (GRADIENTS,) if wants_gradient(x, scale, shift) else ()
    return OPERATOR.choose(x.device.type, backend, x.dtype, requires).implementation(x, scale, shift, eps)  # type: ignore[no-any-return]


OPERATOR = Operator(
    "modulated_norm",
    (
        Implementation("npu", ("npu",), "npu_binding:modulated_norm"),
        Implementation("triton", ("cuda",), "triton_kernel:modulated_norm", needs("triton"), lacks=(GRADIENTS,)),
        Implementation("reference", ("cpu", "cuda", "npu"), "reference:modulated_norm"),
    ),
)
