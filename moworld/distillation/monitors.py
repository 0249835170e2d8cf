"""Detection of a collapsing student: its rollouts freeze, lose contrast or saturate. The last weights before the collapse are kept."""

from collections import deque

import torch
from torch import Tensor, nn

from moworld.distillation.settings import MonitorSettings


def measures(rollout: Tensor, recorded: Tensor, chunk_latents: int) -> dict[str, float]:
    """Returns `motion`, `contrast` and `chunk_drift` of a rollout (B, C, F, h, w) relative to recorded latents of the same clips and shape.

    Each is a mean over per-sample values, so it does not depend on how samples are distributed over ranks.
    """
    motion, real_motion = ((latents[:, :, 1:] - latents[:, :, :-1]).abs().flatten(1).mean(1) for latents in (rollout, recorded))
    parts = (rollout[:, :, 1:], recorded[:, :, 1:], rollout[:, :, 1 : 1 + chunk_latents], rollout[:, :, -chunk_latents:])
    whole, real, first, last = (part.flatten(1).std(1) for part in parts)
    values = {"motion": motion / real_motion, "contrast": whole / real, "chunk_drift": last / first}
    return {name: float(value.mean()) for name, value in values.items()}


class CollapseMonitor:
    """Compares `measures` of consecutive steps with bounds. `weights` are the student's when all measures were last in bounds."""

    def __init__(self, settings: MonitorSettings, student: nn.Module) -> None:
        self.settings, self.student = settings, student
        self.seen: dict[str, deque[float]] = {}
        self.weights = self._copy()

    def watch(self, values: dict[str, float]) -> str:
        """Adds the measures of a step; returns the reason if the student has collapsed, else ""."""
        for name, value in values.items():
            self.seen.setdefault(name, deque(maxlen=self.settings.window)).append(value)
        if len(next(iter(self.seen.values()))) < self.settings.window:
            return ""
        bounds = {
            "motion": (self.settings.least_motion, float("inf")),
            "contrast": self.settings.contrast,
            "chunk_drift": self.settings.chunk_drift,
        }
        for name, (low, high) in bounds.items():
            mean = sum(self.seen[name]) / len(self.seen[name])
            if not low <= mean <= high:  # NaN is out of bounds, too
                return f"{name} {mean:.3g} over {self.settings.window} steps, expected {low:g} to {high:g}"
        self.weights = self._copy()
        return ""

    def memory(self) -> dict[str, list[float]]:
        """Returns the remembered measures, as a checkpoint stores them."""
        return {name: list(values) for name, values in self.seen.items()}

    def recall(self, memory: dict[str, list[float]]) -> None:
        """Restores the measures that `memory` returned."""
        self.seen = {name: deque(values, maxlen=self.settings.window) for name, values in memory.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Resets the student to its last weights within bounds."""
        for name, parameter in self.student.named_parameters():
            parameter.copy_(self.weights[name])

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.student.named_parameters()}
