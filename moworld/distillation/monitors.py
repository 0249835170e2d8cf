"""Signs that a student collapses while it distils: its rollouts freeze, wash out or burn. The last weights before them are kept."""

from collections import deque

import torch
from torch import Tensor, nn

from moworld.settings import Settings


class MonitorSettings(Settings):
    """Bounds for rollouts beside the recorded latents of the same clips, each as a mean over `window` student steps.

    least_motion:            difference of neighbouring latent frames, as a share of the recorded one's
    contrast, chunk_drift:   lowest and highest standard deviation of the latents: of the rollout as a share of the recorded one's, and of
                             the last chunk as a share of the first one's
    """

    window: int = 8
    least_motion: float = 0.15
    contrast: tuple[float, float] = (0.4, 2.0)
    chunk_drift: tuple[float, float] = (0.4, 2.5)


def measures(rollout: Tensor, recorded: Tensor, chunk_latents: int) -> dict[str, float]:
    """`motion`, `contrast` and `chunk_drift` of a rollout (B, C, F, h, w) beside the recorded latents of the same clips and shape.

    Each is taken by sample, then the mean over samples: so it does not matter how they lie on ranks.
    """
    motion, real_motion = ((latents[:, :, 1:] - latents[:, :, :-1]).abs().flatten(1).mean(1) for latents in (rollout, recorded))
    parts = (rollout[:, :, 1:], recorded[:, :, 1:], rollout[:, :, 1 : 1 + chunk_latents], rollout[:, :, -chunk_latents:])
    whole, real, first, last = (part.flatten(1).std(1) for part in parts)
    values = {"motion": motion / real_motion, "contrast": whole / real, "chunk_drift": last / first}
    return {name: float(value.mean()) for name, value in values.items()}


class CollapseMonitor:
    """Watches `measures` of step after step. `weights` are those of the student when all was last in bounds."""

    def __init__(self, settings: MonitorSettings, student: nn.Module) -> None:
        self.settings, self.student = settings, student
        self.seen: dict[str, deque[float]] = {}
        self.weights = self._copy()

    def watch(self, values: dict[str, float]) -> str:
        """Take the measures of a step. Returns why the student has collapsed, "" while it has not."""
        for name, value in values.items():
            self.seen.setdefault(name, deque(maxlen=self.settings.window)).append(value)
        bounds = {
            "motion": (self.settings.least_motion, float("inf")),
            "contrast": self.settings.contrast,
            "chunk_drift": self.settings.chunk_drift,
        }
        if len(next(iter(self.seen.values()))) < self.settings.window:
            return ""
        for name, (low, high) in bounds.items():
            mean = sum(self.seen[name]) / len(self.seen[name])
            if not low <= mean <= high:  # what is not a number is out of bounds, too
                return f"{name} {mean:.3g} over {self.settings.window} steps, wanted {low:g} to {high:g}"
        self.weights = self._copy()
        return ""

    def memory(self) -> dict[str, list[float]]:
        """The measures that are remembered, as a checkpoint keeps them."""
        return {name: list(values) for name, values in self.seen.items()}

    def recall(self, memory: dict[str, list[float]]) -> None:
        """Take up what `memory` gave."""
        self.seen = {name: deque(values, maxlen=self.settings.window) for name, values in memory.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Give the student its last good weights back."""
        for name, parameter in self.student.named_parameters():
            parameter.copy_(self.weights[name])

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.student.named_parameters()}
