"""One optimizer step, the same for every stage: clip, AdamW, learning-rate schedule, average of the weights."""

import math

import torch
from torch import Tensor, nn

from moworld.settings import Settings


class OptimizerSettings(Settings):
    """AdamW with linear warm-up and a cosine to `final_lr` times the rate; `average` is the decay of the weights' moving average (0: none)."""

    lr: float
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    warmup: int = 0
    final_lr: float = 1.0
    average: float = 0.0


class Learner:
    """Holds what training a module needs besides the module: optimizer, schedule, moving average."""

    def __init__(self, module: nn.Module, settings: OptimizerSettings, total_steps: int) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.settings, self.total_steps, self.steps = settings, total_steps, 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.averages = [p.detach().clone() for p in self.parameters] if settings.average else []

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine from 1 to `final_lr` times the rate."""
        s = self.settings
        if step < s.warmup:
            return s.lr * (step + 1) / s.warmup
        progress = (step - s.warmup) / max(1, self.total_steps - s.warmup)
        return s.lr * (s.final_lr + (1 - s.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def step(self, loss: Tensor) -> None:
        """Back-propagate and update. A loss that is not finite raises FloatingPointError before any weight changes."""
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss {loss.item()} at step {self.steps}: lower optimizer.lr or look at the features")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self.averages:
            decay = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    def use_average(self) -> None:
        """Replace the weights by their moving average, when one is kept."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=False):
                parameter.copy_(average)
