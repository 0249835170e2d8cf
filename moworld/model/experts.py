"""Two experts split by noise level (paper 3.1): the high-noise one generates structure and motion, the low-noise one refines.

The boundary is a noise level, not an index into a schedule: the level of an index depends on the shift.
"""

from typing import TYPE_CHECKING

from torch import nn

from moworld.errors import InputError

if TYPE_CHECKING:
    from moworld.model.transformer import MoWorldTransformer3DModel


def expert_name(level: float, boundary: float) -> str:
    """Returns the name of the expert of a noise level, 'high' or 'low'; a model of one expert has the boundary 0."""
    return "high" if level >= boundary else "low"


class Experts(nn.Module):
    """The transformers of a model by noise level. A level equal to the boundary belongs to the high-noise expert.

    low: None for a model of one expert, which covers every level
    Raises InputError for two experts and a boundary outside (0, 1).
    """

    def __init__(self, high: "MoWorldTransformer3DModel", low: "MoWorldTransformer3DModel | None", boundary: float) -> None:
        super().__init__()
        if low is not None and not 0 < boundary < 1:
            raise InputError("model", "boundary", boundary, "a noise level between 0 and 1", "set model.boundary, or use one expert")
        self.high, self.low, self.boundary = high, low, boundary if low is not None else 0.0

    def at(self, level: float) -> "MoWorldTransformer3DModel":
        """Returns the expert of noise level `level` in [0, 1]."""
        return self.high if self.low is None or self.name_at(level) == "high" else self.low

    def name_at(self, level: float) -> str:
        """Returns the name of the expert of a noise level: 'high' or 'low'."""
        return expert_name(level, self.boundary)

    def noise_range(self, name: str) -> tuple[float, float]:
        """Returns the half-open range of noise levels that the expert `high` or `low` is trained on."""
        return (self.boundary, 1.0) if name == "high" else (0.0, self.boundary)

    def named_experts(self) -> list[tuple[str, "MoWorldTransformer3DModel"]]:
        return [("high", self.high)] + ([("low", self.low)] if self.low is not None else [])
