"""Back-propagation of a rollout chunk by chunk, so that a device holds the activations and whole gradients of one chunk only."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from moworld.model.experts import Experts
from moworld.model.rollout import Noise, denoise_few_steps
from moworld.model.settings import Sampler
from moworld.model.window import Window, predict_velocity


@dataclass
class ChunkwiseGradients:
    """Denoises the chunks of a rollout (see `Denoiser`) without keeping activations; `backward` predicts each chunk again.

    In one backward pass for several chunks, autograd adds up the gradient of every weight, whole, until the first chunk has added its
    part; FSDP can shard none before. Here each chunk has a backward pass of its own, after which its gradients are sharded.

    predicted: of each chunk the velocity (B, C, F, h, w), a leaf that collects its gradient, and what `predict_velocity` got for it
    """

    experts: Experts
    sampler: Sampler = "stochastic"
    predicted: list[tuple[Tensor, Any, Tensor, Tensor, Window]] = field(default_factory=list)

    def denoise(self, window: Window, schedule: Tensor, generator: Noise, exit_step: int | None = None) -> Tensor:
        """Returns clean latents (B, C, F, h, w), as `denoise_few_steps`. Their gradients reach the velocity only, until `backward`."""
        return denoise_few_steps(self.experts, window, schedule, generator, exit_step, self.sampler, self._predict)

    def _predict(self, expert: Any, noisy: Tensor, levels: Tensor, window: Window) -> Tensor:
        with torch.no_grad():
            velocity = predict_velocity(expert, noisy, levels, window)
        self.predicted.append((velocity.requires_grad_(), expert, noisy, levels, window))
        return velocity

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss of the rollout to the experts' weights: those that `loss.backward()` adds without this class.

        From the last chunk to the first: a chunk's window holds latents of earlier chunks, which thereby get their gradients in time.
        """
        loss.backward(retain_graph=True)
        while self.predicted:
            velocity, expert, noisy, levels, window = self.predicted.pop()
            given = {name: getattr(window, name).detach().requires_grad_() for name in ("condition", "history")}
            predict_velocity(expert, noisy, levels, replace(window, **given)).backward(velocity.grad)
            earlier = [(getattr(window, name), tensor.grad) for name, tensor in given.items() if getattr(window, name).requires_grad]
            if earlier:
                torch.autograd.backward([tensor for tensor, _ in earlier], [grad for _, grad in earlier], retain_graph=True)
