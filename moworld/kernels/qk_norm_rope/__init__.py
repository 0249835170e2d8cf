"""RMSNorm of queries and keys over all heads at once, then rotary positions: the step between projections and attention (paper 5.4)."""

from torch import Tensor

from moworld.kernels.dispatch import GRADIENTS, Implementation, Operator, needs, wants_gradient


def qk_norm_rope(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cosines: Tensor, sines: Tensor,
    eps: float, backend: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns query and key (B, N, H, D) after RMSNorm over H * D (Wan's rms_norm_across_heads) and rotation of interleaved pairs.

    query, key:      (B, N, H * D) projections, float32, bfloat16 or float16; parts of one projection's output need no copy
    query_weight, key_weight: (H * D,)
    cosines, sines:  (1 or B, N, 1, D) from Diffusers' rotary embedding, each value twice; D even
    eps:             of the RMSNorm
    Norm and rotation are computed in float32 (`pairs` and `npu` round between them); the result has query's dtype.
    Gradients of query, key and the weights flow through `pairs`, `reference` and `npu`, not through `triton`.
    Raises ValueError if shapes or dtypes disagree; NoKernel if the backend cannot run.
    """
    fits = query.ndim == 3 and query.shape == key.shape and query.dtype == key.dtype and cosines.ndim == 4
    fits = fits and query_weight.shape == key_weight.shape == query.shape[2:] and cosines.shape == sines.shape
    fits = fits and cosines.shape[0] in (1, query.shape[0]) and cosines.shape[1:3] == (query.shape[1], 1)
    if not fits or cosines.shape[3] % 2 or query.shape[2] % cosines.shape[3]:
        shapes = (tuple(x.shape) for x in (query, key, query_weight, key_weight, cosines, sines))
        raise ValueError("query {}, key {}, weights {} and {}, cosines {}, sines {} do not fit".format(*shapes))
    requires, dim = (GRADIENTS,) if wants_gradient(query, key, query_weight, key_weight) else (), cosines.shape[3]
    choice = OPERATOR.choose(query.device.type, backend, query.dtype, requires, head_dim=dim, heads=query.shape[2] // dim)
    return choice.implementation(query, key, query_weight, key_weight, cosines, sines, eps)  # type: ignore[no-any-return]


OPERATOR = Operator(
    "qk_norm_rope",
    (
        Implementation("npu", ("npu",), "npu_binding:qk_norm_rope", needs("torch_npu"), limits={"head_dim": 895, "heads": 999}),
        Implementation("triton", ("cuda",), "triton_kernel:qk_norm_rope", needs("triton"), lacks=(GRADIENTS,)),
        Implementation("pairs", ("cpu", "cuda"), "pairs:qk_norm_rope"),
        Implementation("reference", ("cpu", "cuda", "npu"), "reference:qk_norm_rope"),
    ),
)
