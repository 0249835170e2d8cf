"""Two experts split by noise level (paper 3.1): the high-noise one lays out structure and motion, the low-noise one refines.

The boundary is a noise level, never an index into a schedule: an index means another level at every shift.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from moworld.model.transformer import MoWorldTransformer3DModel


class Experts(nn.Module):
    """The transformer to use at a noise level. A level equal to the boundary belongs to the high-noise expert alone."""

    def __init__(self, high: "MoWorldTransformer3DModel", low: "MoWorldTransformer3DModel", boundary: float) -> None:
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    def at(self, level: float) -> "MoWorldTransformer3DModel":
        """The expert of noise level `level` in [0, 1]."""
        return self.high if level >= self.boundary else self.low

    def noise_range(self, name: str) -> tuple[float, float]:
        """The half-open range of noise levels that the expert `high` or `low` is trained on."""
        return (self.boundary, 1.0) if name == "high" else (0.0, self.boundary)

    def named_experts(self) -> list[tuple[str, "MoWorldTransformer3DModel"]]:
        return [("high", self.high), ("low", self.low)]

    def forward(
        self, level: float, hidden_states: Tensor, timestep: Tensor, text: Tensor, camera: Tensor | None, frame_ids: Tensor
    ) -> Tensor:
        return self.at(level)(hidden_states, timestep, text, camera, frame_ids)  # type: ignore[no-any-return]
