"""One optimizer step, the same in every stage: gradient clipping, AdamW, learning-rate schedule, moving average of the weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from moworld.training.parallel import local
from moworld.training.settings import OptimizerSettings


class Learner:
    """Optimizer, schedule and moving average of one module's trainable parameters."""

    def __init__(self, module: nn.Module, settings: OptimizerSettings, total_steps: int) -> None:
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.settings, self.total_steps, self.steps = settings, total_steps, 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.averages = [p.detach().clone() for p in self.parameters] if settings.average else []

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step: linear warm-up, then a cosine from `lr` to `final_lr` times `lr`."""
        s = self.settings
        if step < s.warmup:
            return s.lr * (step + 1) / s.warmup
        progress = (step - s.warmup) / max(1, self.total_steps - s.warmup)
        return s.lr * (s.final_lr + (1 - s.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def step(self, loss: Tensor, at: int | None = None, backward: Callable[[Tensor], None] = Tensor.backward) -> None:
        """Back-propagates and updates the weights; raises FloatingPointError, with unchanged weights, if the loss is not finite.

        at:       step of the schedule; None is this learner's own number of steps, which is less if it learns only in some steps
        backward: adds the gradients of the loss
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss {loss.item()} at step {self.steps}: lower optimizer.lr or check the features")
        backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps if at is None else at)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self.averages:
            decay = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_([local(a) for a in self.averages], [local(p.detach()) for p in self.parameters], 1 - decay)

    def state(self) -> dict[str, Any]:
        """Returns weights, AdamW moments with step counts, and moving averages by parameter name. The tensors are not copied."""
        for parameter in self.parameters:  # AdamW creates its state in the first step only
            if not self.optimizer.state[parameter]:
                zeros = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.tensor(0.0, device=parameter.device), **zeros}
        moments = {name: dict(self.optimizer.state[parameter]) for name, parameter in self.named.items()}
        averages = dict(zip(self.named, self.averages, strict=False))
        return {"weights": {name: p.detach() for name, p in self.named.items()}, "moments": moments, "averages": averages}

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """Continues after `steps` steps from a checkpoint that was loaded into the tensors of `state()`."""
        for name, moments in state["moments"].items():
            self.optimizer.state[self.named[name]] = moments
        self.steps = steps

    def use_average(self) -> None:
        """Replaces the weights by their moving average, if there is one."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=False):
                local(parameter).copy_(local(average))
