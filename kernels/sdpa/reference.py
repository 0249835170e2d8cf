"""PyTorch's own choice among its kernels."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See the face."""
    return scaled_dot_product_attention(query, key, value)
