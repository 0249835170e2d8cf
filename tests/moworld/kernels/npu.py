"""A fake of torch_npu with its published schemas that computes the documented results in plain PyTorch. Gradients flow.

The schemas are those that torch_npu 2.12.0's library registers. PyTorch's dispatcher checks callers against them: names, keywords, types,
number and kind of results. The fake asserts the documented limits of dtype, layout and shape.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

COPIES = 8
SCHEMAS = (
    "npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, Tensor? pse=None, Tensor? padding_mask=None, "
    "Tensor? atten_mask=None, float scale=1., float keep_prob=1., int pre_tockens=2147483647, int next_tockens=2147483647, "
    "int inner_precise=0, int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int sparse_mode=0, "
    'bool gen_mask_parallel=True, bool sync=False, str softmax_layout="", Tensor? sink=None, Tensor? dropout_mask=None, int seed=0, '
    "int offset=0) -> (Tensor, Tensor, Tensor, Tensor, int, int, int)",
    "npu_fusion_attention_grad(Tensor query, Tensor key, Tensor value, Tensor dy, int head_num, str input_layout, *, Tensor? pse=None, "
    "Tensor? padding_mask=None, Tensor? atten_mask=None, Tensor? softmax_max=None, Tensor? softmax_sum=None, Tensor? softmax_in=None, "
    "Tensor? attention_in=None, float scale_value=1., float keep_prob=1., int pre_tockens=2147483647, int next_tockens=2147483647, "
    "int inner_precise=0, int seed=0, int offset=0, int numels=0, int[]? prefix=None, int[]? actual_seq_qlen=None, "
    'int[]? actual_seq_kvlen=None, int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False, str softmax_layout="", '
    "Tensor? sink=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
    "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', Tensor? rotate=None) -> Tensor",
    'npu_dynamic_quant(Tensor input, *, Tensor? smooth_scales=None, Tensor? group_index=None, int? dst_type=None, str quant_mode="pertoken", '
    "float dst_type_max=0.0) -> (Tensor, Tensor)",
    "npu_quant_matmul(Tensor x1, Tensor x2, Tensor scale, *, Tensor? offset=None, Tensor? pertoken_scale=None, Tensor? bias=None, "
    "int? output_dtype=None, int? x1_dtype=None, int? x2_dtype=None, int? pertoken_scale_dtype=None, int? scale_dtype=None, "
    "int[]? group_sizes=None, Tensor? y_scale=None) -> Tensor",
)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = {1: torch.int8, 5: torch.float16, 15: torch.bfloat16, 3: torch.int32}  # as `int? output_dtype` numbers them


def npu_fusion_attention(query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None, scale=1.0, **rest):
    """Supports layout BNSD. The mask's ones are excluded, unlike SDPA. Maximum and sum are repeated eight times, in float32."""
    assert input_layout == "BNSD" and head_num == query.shape[1] <= 256 and query.shape[3] <= 768 and key.shape == value.shape
    assert query.dtype == key.dtype == value.dtype and query.dtype in FLOATS
    logits = query.float() @ key.float().transpose(-1, -2) * scale
    if atten_mask is not None:
        assert atten_mask.dtype in (torch.bool, torch.uint8)
        logits = logits.masked_fill(atten_mask.bool(), -torch.inf)
    maximum = logits.amax(-1, keepdim=True)
    weights = (logits - maximum).exp()
    total = weights.sum(-1, keepdim=True)
    output = ((weights / total) @ value.float()).to(query.dtype)
    return output, maximum.repeat(1, 1, 1, COPIES), total.repeat(1, 1, 1, COPIES), query.new_empty(0), 0, 0, 0


def npu_fusion_attention_grad(
    query, key, value, dy, head_num, input_layout, *, softmax_max=None, softmax_sum=None, attention_in=None, scale_value=1.0, **rest
):
    """Takes the forward's maximum, sum and output; a log-sum-exp is a maximum with sum 1."""
    assert input_layout == "BNSD" and head_num == query.shape[1]
    for statistic in (softmax_max, softmax_sum):
        assert statistic.dtype == torch.float32 and statistic.shape == (*query.shape[:3], COPIES) and statistic.is_contiguous()
    q, k, v, g = (x.float() for x in (query, key, value, dy))
    weights = (q @ k.transpose(-1, -2) * scale_value - softmax_max[..., :1]).exp() / softmax_sum[..., :1]
    d_logits = weights * (g @ v.transpose(-1, -2) - (g * attention_in.float()).sum(-1, keepdim=True)) * scale_value
    gradients = d_logits @ k, d_logits.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ g
    return *(x.to(query.dtype) for x in gradients), query.new_empty(0), query.new_empty(0)


def npu_rms_norm(input, gamma, epsilon=1e-6):
    """Second result: the reciprocal root mean square, float32."""
    assert input.dtype in FLOATS and gamma.dtype == input.dtype, "gamma's dtype is the input's"
    inverse = (input.float().pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    return (input.float() * inverse * gamma.float()).to(input.dtype), inverse


def npu_rotary_mul(input, r1, r2, rotary_mode="half", rotate=None):
    """r1 cosines, r2 sines. In interleave mode they are 1S1D for BSND, and samples times heads stay below 1,000."""
    assert input.ndim == r1.ndim == 4 and r1.shape == r2.shape and input.dtype == r1.dtype == r2.dtype in FLOATS
    batch, length, heads, dim = input.shape
    assert dim % 2 == 0 and dim < 896 and r1.abs().max() <= 1 and r2.abs().max() <= 1
    if rotary_mode == "interleave":
        assert batch * heads < 1000 and r1.shape == (1, length, 1, dim)
        turned = torch.stack([-input[..., 1::2], input[..., ::2]], dim=-1).flatten(-2)
    else:
        assert rotary_mode == "half" and batch < 1000 and heads < 1000 and r1.shape[0] in (1, batch) and r1.shape[1] == length
        first, second = input.chunk(2, -1)
        turned = torch.cat([-second, first], dim=-1)
    return r1 * input + r2 * turned


def npu_dynamic_quant(input, *, dst_type=None, quant_mode="pertoken", **rest):
    assert input.dtype in (torch.float16, torch.bfloat16) and input.ndim > 1 and dst_type is None and quant_mode == "pertoken"
    scale = input.float().abs().amax(-1) / 127
    return (input.float() / torch.where(scale > 0, scale, 1)[..., None]).round().to(torch.int8), scale


def npu_quant_matmul(x1, x2, scale, *, pertoken_scale=None, bias=None, output_dtype=None, **rest):
    """output_dtype None would give int8."""
    assert x1.dtype == x2.dtype == torch.int8 and x1.shape[1] == x2.shape[0] and max(x1.shape[-1], x2.shape[-1]) <= 65535
    assert scale.dtype in (torch.float32, torch.bfloat16) and scale.shape == x2.shape[1:]
    assert pertoken_scale.dtype == torch.float32 and pertoken_scale.shape == x1.shape[:1] and bias is None
    dtype = DTYPES[output_dtype]
    assert dtype in (torch.float16, torch.bfloat16)
    return ((x1.long() @ x2.long()).double() * pertoken_scale[:, None] * scale).to(dtype)


def _registered() -> SimpleNamespace:
    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        LIBRARY.define(schema)
        LIBRARY.impl(name, globals()[name], "CompositeImplicitAutograd")
    return SimpleNamespace(**{schema.partition("(")[0]: _counted(schema.partition("(")[0]) for schema in SCHEMAS})


def _counted(name: str):
    def call(*arguments: object, **keywords: object) -> Tensor | tuple[Tensor, ...]:
        CALLS.append(name)
        return getattr(torch.ops.npu, name)(*arguments, **keywords)

    return call


CALLS: list[str] = []
LIBRARY = torch.library.Library("npu", "DEF")
TORCH_NPU = _registered()
