"""One optimizer step, the same for every stage: clip, AdamW, learning-rate schedule, average of the weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from moworld.settings import Settings
from moworld.training.parallel import local


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
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
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
            torch._foreach_lerp_([local(a) for a in self.averages], [local(p.detach()) for p in self.parameters], 1 - decay)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, by parameter: weights, both moments of AdamW with its step count, moving averages. Tensors are not copied."""
        for parameter in self.parameters:  # before the first step AdamW has none
            if not self.optimizer.state[parameter]:
                zeros = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.tensor(0.0, device=parameter.device), **zeros}
        moments = {name: dict(self.optimizer.state[parameter]) for name, parameter in self.named.items()}
        averages = dict(zip(self.named, self.averages, strict=False))
        return {"weights": {name: p.detach() for name, p in self.named.items()}, "moments": moments, "averages": averages}

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """Go on after `steps` steps from a state that was read into the tensors that `state()` gave."""
        for name, moments in state["moments"].items():
            self.optimizer.state[self.named[name]] = moments
        self.steps = steps

    def use_average(self) -> None:
        """Replace the weights by their moving average, when one is kept."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=False):
                local(parameter).copy_(local(average))
