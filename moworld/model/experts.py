"""Two experts split by noise level (paper 3.1): the high-noise one lays out structure and motion, the low-noise one refines.

The boundary is a noise level, never an index into a schedule: an index means another level at every shift.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from moworld.errors import InputError

if TYPE_CHECKING:
    from moworld.model.transformer import MoWorldTransformer3DModel


class Experts(nn.Module):
    """The transformer to use at a noise level. A level equal to the boundary belongs to the high-noise expert alone.

    low: None for a model of one expert, which then serves every level
    Raises InputError for a boundary that leaves one of two experts without a range.
    """

    def __init__(self, high: "MoWorldTransformer3DModel", low: "MoWorldTransformer3DModel | None", boundary: float) -> None:
        super().__init__()
        if low is not None and not 0 < boundary < 1:
            mend = "set model.boundary, or use one expert"
            raise InputError("model", "boundary", boundary, "a noise level between 0 and 1, for both experts need a range", mend)
        self.high, self.low, self.boundary = high, low, boundary if low is not None else 0.0

    def at(self, level: float) -> "MoWorldTransformer3DModel":
        """The expert of noise level `level` in [0, 1]."""
        return self.high if self.low is None or self.name_at(level) == "high" else self.low

    def name_at(self, level: float) -> str:
        """'high' or 'low': the expert of a noise level by its name."""
        return "high" if self.low is None or level >= self.boundary else "low"

    def noise_range(self, name: str) -> tuple[float, float]:
        """The half-open range of noise levels that the expert `high` or `low` is trained on."""
        return (self.boundary, 1.0) if name == "high" else (0.0, self.boundary)

    def named_experts(self) -> list[tuple[str, "MoWorldTransformer3DModel"]]:
        return [("high", self.high)] + ([("low", self.low)] if self.low is not None else [])

    def forward(
        self, level: float, hidden_states: Tensor, timestep: Tensor, text: Tensor, camera: Tensor | None, frame_ids: Tensor
    ) -> Tensor:
        return self.at(level)(hidden_states, timestep, text, camera, frame_ids)  # type: ignore[no-any-return]
