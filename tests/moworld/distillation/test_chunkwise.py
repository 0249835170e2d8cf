"""Gradients chunk by chunk are those of one backward pass for the whole rollout."""

import pytest
import torch

from moworld.distillation.chunkwise import ChunkwiseGradients
from moworld.distillation.phases import student_rollout
from tests.moworld.worlds import tiny_batch, tiny_world


@pytest.mark.parametrize("attention", ["joint", "block_causal"])
def test_gradients_are_those_of_one_backward_pass(attention: str):
    batch = {key: value.double() if value.is_floating_point() else value for key, value in tiny_batch(10, 2, seed=3).items()}
    world = tiny_world(1, history_attention=attention)
    for _, expert in world.experts.named_experts():
        expert.double()
    weights = torch.randn(batch["latents"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    found = []
    for chunkwise in (None, ChunkwiseGradients(world.experts)):
        world.experts.zero_grad()
        denoise = chunkwise.denoise if chunkwise else None
        rollout, name = student_rollout(world, batch, torch.Generator().manual_seed(5), denoise)
        loss = (weights * rollout.square()).mean()  # not linear: a chunk's gradient depends on its latents
        chunkwise.backward(loss) if chunkwise else loss.backward()
        grads = {key: parameter.grad.clone() for key, parameter in world.experts.named_parameters() if parameter.grad is not None}
        found.append((rollout.detach(), name, grads))
    (one, name, expected), (other, again, grads) = found
    assert name == again and torch.equal(one, other) and expected.keys() == grads.keys() and len(grads) > 20
    for key, grad in expected.items():
        torch.testing.assert_close(grads[key], grad, rtol=1e-9, atol=1e-14)
    assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-6
