"""LayerNorm without weights, then scale and shift by the timestep: Wan's norm before self-attention, feed-forward and output.

The paper's text speaks of RMSNorm there (5.4); the model it builds on, and its published weights, have LayerNorm, so LayerNorm is served.
"""

from torch import Tensor

from kernels.dispatch import Implementation, Operator, always, module, needs, wants_gradient


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, backend: str | None = None) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift over the last dim, in float32.

    x:            (B, N, D) float32, bfloat16 or float16
    scale, shift: (B, 1, D) one per sample, or (B, N, D) one per token; float32 as Wan computes them, or x's dtype
    returns:      (B, N, D) in x.dtype
    Gradients flow through `reference` and `npu`; where they are needed, `triton` is refused.
    Raises ValueError for shapes that do not fit, NoKernel for a backend that cannot run.
    """
    fits = x.ndim == scale.ndim == 3 and scale.shape == shift.shape and scale.shape[0] == x.shape[0]
    if not fits or scale.shape[1] not in (1, x.shape[1]) or scale.shape[2] != x.shape[2]:
        raise ValueError(f"x {tuple(x.shape)}, scale {tuple(scale.shape)} and shift {tuple(shift.shape)} do not fit")
    gradient = wants_gradient(x, scale, shift)
    return OPERATOR.choose(x.device.type, backend, x.dtype, gradient).operator(x, scale, shift, eps)  # type: ignore[no-any-return]


OPERATOR = Operator(
    "modulated_norm",
    (
        Implementation("npu", ("npu",), always, module("kernels.modulated_norm.npu_binding", "modulated_norm")),
        Implementation(
            "triton",
            ("cuda", "npu"),
            needs("triton"),
            module("kernels.modulated_norm.triton_kernel", "modulated_norm"),
            differentiable=False,
        ),
        Implementation("reference", ("cpu", "cuda", "npu"), always, module("kernels.modulated_norm.reference", "modulated_norm")),
    ),
)
