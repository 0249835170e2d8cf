"""What stands between the projections and attention: RMSNorm of queries and keys over all heads at once, then rotary positions (paper 5.4)."""

from torch import Tensor

from kernels.dispatch import Implementation, Operator, always, module, needs, wants_gradient


def qk_norm_rope(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    cosines: Tensor,
    sines: Tensor,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """RMSNorm with weight over H * D (Wan's rms_norm_across_heads), then interleaved pairs of every head turned by their token's angle.

    query, key:      (B, N, H * D) projections, float32, bfloat16 or float16; parts of one projection's output need no copy
    query_weight, key_weight: (H * D,)
    cosines, sines:  (1 or B, N, 1, D) as Diffusers' rotary embedding gives them, each value twice over; D even
    eps:             of the RMSNorm
    returns:         query and key (B, N, H, D) in the dtype of query; norm and rotation in float32 (`pairs` and `npu` round between them)
    Gradients of query, key and the weights flow through `pairs`, `reference` and `npu`; where they are needed, `triton` is refused.
    Raises ValueError for shapes or dtypes that do not fit, NoKernel for a backend that cannot run.
    """
    fits = query.ndim == 3 and query.shape == key.shape and query.dtype == key.dtype and cosines.ndim == 4
    fits = fits and query_weight.shape == key_weight.shape == query.shape[2:] and cosines.shape == sines.shape
    fits = fits and cosines.shape[0] in (1, query.shape[0]) and cosines.shape[1:3] == (query.shape[1], 1)
    if not fits or cosines.shape[3] % 2 or query.shape[2] % cosines.shape[3]:
        shapes = (tuple(x.shape) for x in (query, key, query_weight, key_weight, cosines, sines))
        raise ValueError("query {}, key {}, weights {} and {}, cosines {}, sines {} do not fit".format(*shapes))
    gradient, dim = wants_gradient(query, key, query_weight, key_weight), cosines.shape[3]
    choice = OPERATOR.choose(query.device.type, backend, query.dtype, gradient, head_dim=dim, heads=query.shape[2] // dim)
    return choice.operator(query, key, query_weight, key_weight, cosines, sines, eps)  # type: ignore[no-any-return]


OPERATOR = Operator(
    "qk_norm_rope",
    (
        Implementation(
            "npu",
            ("npu",),
            needs("torch_npu"),
            module("kernels.qk_norm_rope.npu_binding", "qk_norm_rope"),
            limits=(("head_dim", 895), ("heads", 999)),
        ),
        Implementation(
            "triton", ("cuda", "npu"), needs("triton"), module("kernels.qk_norm_rope.triton_kernel", "qk_norm_rope"), differentiable=False
        ),
        Implementation("pairs", ("cpu", "cuda"), always, module("kernels.qk_norm_rope.pairs", "qk_norm_rope")),
        Implementation("reference", ("cpu", "cuda", "npu"), always, module("kernels.qk_norm_rope.reference", "qk_norm_rope")),
    ),
)
