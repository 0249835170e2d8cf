"""Several ranks do what one does: losses, gradients and weights, with Ulysses, ring, their product and FSDP, with history and without."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moworld.distillation.autoregressive import AutoregressiveSettings, autoregressive_loss
from moworld.errors import InputError
from moworld.model.sequence import SequenceMesh
from moworld.training.loop import Learner, OptimizerSettings
from moworld.training.objective import flow_matching_loss
from moworld.training.parallel import ParallelSettings, Ranks, join_ranks
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import counted_saved_bytes, tiny_batch, tiny_world

STEPS = 10
BATCH, LATENTS = 4, 7  # 7 frames of 2 tokens: 14 tokens, which neither 4 ranks nor 3 divide
KINDS = ("plain", "history", "block-causal")
OPTIMIZER = OptimizerSettings(lr=5e-4, clip=0.5, average=0.9)


def world_of(heads: int = 4, **model: object):
    world = tiny_world(num_layers=2, num_attention_heads=heads, **model)
    world.experts.train()
    return world


def train_steps(ranks: Ranks, kind: str) -> dict[str, torch.Tensor]:
    """Ten optimizer steps on this rank's samples: losses, the first step's gradients, and the weights after the last.

    kind: "plain" windows, windows with "history" that attends jointly, or "block-causal" history
    """
    world, history = world_of(history_attention="block_causal" if kind == "block-causal" else "joint"), kind != "plain"
    expert = world.experts.low
    ranks.place(expert)
    learner, generator = Learner(expert, OPTIMIZER, STEPS), torch.Generator().manual_seed(5)
    told: dict[str, torch.Tensor] = {}
    losses = []
    for step in range(STEPS):
        batch = {key: ranks.of_global(value) for key, value in tiny_batch(LATENTS, BATCH, seed=step).items()}
        if history:
            settings = AutoregressiveSettings(frames=25, batch=BATCH, steps=STEPS, optimizer=OPTIMIZER)
            loss, _ = autoregressive_loss(world, "low", batch, settings, generator, ranks)
        else:
            loss = flow_matching_loss(world.experts, "low", batch, 5.0, generator, 0.3, 0.3, ranks)
        losses.append(ranks.mean(loss.detach()))
        if step == 0:
            loss.backward()
            told |= {f"gradient {name}": whole(p.grad).clone() for name, p in expert.named_parameters() if p.grad is not None}
            learner.optimizer.zero_grad(set_to_none=True)
            loss = ranks_loss_again(world, batch, history, ranks)
            generator.manual_seed(6)
        learner.step(loss)
    weights = {f"weight {name}": whole(p.detach()) for name, p in expert.named_parameters()}
    averages = {f"average {name}": whole(a) for name, a in zip(learner.named, learner.averages, strict=True)}
    return {**told, **weights, **averages, "losses": torch.stack(losses)}


def ranks_loss_again(world, batch, history: bool, ranks: Ranks) -> torch.Tensor:
    """The first step's loss once more: its graph went with the gradients that were looked at."""
    generator = torch.Generator().manual_seed(5)
    if history:
        settings = AutoregressiveSettings(frames=25, batch=BATCH, steps=STEPS, optimizer=OPTIMIZER)
        return autoregressive_loss(world, "low", batch, settings, generator, ranks)[0]
    return flow_matching_loss(world.experts, "low", batch, 5.0, generator, 0.3, 0.3, ranks)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def on_ranks(rank: int, ulysses: int, ring: int, checkpoint: bool) -> dict[str, dict[str, torch.Tensor]]:
    ranks = joined(ulysses, ring, checkpoint_activations=checkpoint)
    return {kind: train_steps(ranks, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    return {kind: train_steps(Ranks(), kind) for kind in KINDS}


@pytest.mark.parametrize(
    ("world", "ulysses", "ring", "checkpoint"),
    [
        (2, 1, 1, False),
        pytest.param(4, 1, 1, True, marks=pytest.mark.slow),
        (2, 2, 1, False),
        pytest.param(4, 4, 1, False, marks=pytest.mark.slow),
        (2, 1, 2, False),
        pytest.param(4, 1, 4, True, marks=pytest.mark.slow),
        (4, 2, 2, False),
        pytest.param(4, 2, 1, True, marks=pytest.mark.slow),
    ],
    ids=["fsdp2", "fsdp4", "ulysses2", "ulysses4", "ring2", "ring4", "usp2x2", "ulysses2-data2"],
)
def test_ranks_together_train_as_one_does(alone, world, ulysses, ring, checkpoint):
    results = run_ranks(world, on_ranks, ulysses, ring, checkpoint)
    for told in results:  # every rank knows the same
        for name, expected in alone.items():
            torch.testing.assert_close(told[name]["losses"], expected["losses"], rtol=1e-5, atol=1e-5)
            assert {key for key in told[name] if key.startswith("gradient")} == {key for key in expected if key.startswith("gradient")}
            for key, value in expected.items():
                if key != "losses" and value.norm() > 1e-7:
                    # AdamW's first steps turn the rounding of tiny gradients into steps of either sign: weights get more room
                    room = 1e-4 if key.startswith("gradient") else 3e-3 if name == "block-causal" else 1e-3
                    assert (told[name][key] - value).norm() <= room * value.norm(), (name, key)


def test_the_two_tasks_differ_and_the_weights_have_moved_much_further_than_the_tolerance(alone):
    assert not torch.equal(alone["plain"]["losses"], alone["history"]["losses"])
    for name, start in world_of().experts.low.named_parameters():
        if name.endswith("to_q.weight"):
            assert (alone["plain"][f"weight {name}"] - start).norm() > 5e-3 * start.norm()


def saved_bytes(rank: int, ulysses: int, ring: int) -> int:
    """Bytes that the forward pass of the longest pocket clip keeps for the backward pass; weights and inputs excluded."""
    ranks = joined(ulysses, ring) if ulysses * ring > 1 else Ranks()
    world, batch = world_of(), tiny_batch(49, 1)
    world.experts.low.share_sequence(ranks.sequence)
    with counted_saved_bytes([*world.experts.parameters(), *batch.values()]) as seen:
        loss = flow_matching_loss(world.experts, "low", batch, 5.0, torch.Generator().manual_seed(0), 0, 0, ranks)
    assert loss.requires_grad
    return sum(seen.values())


SHARES = [(2, 1, 0.6), (1, 2, 0.6), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 1, 0.35), (1, 4, 0.35), (2, 2, 0.35)))]


@pytest.mark.parametrize(("ulysses", "ring", "share"), SHARES)
def test_a_rank_keeps_its_share_of_the_activations(ulysses, ring, share):
    whole_bytes = saved_bytes(0, 1, 1)
    assert max(run_ranks(ulysses * ring, saved_bytes, ulysses, ring)) <= share * whole_bytes


def in_bfloat16(rank: int) -> dict[str, torch.Tensor]:
    ranks = joined(ulysses=2, dtype="bfloat16")
    world = world_of()
    ranks.place(world.experts.low)
    learner, generator = Learner(world.experts.low, OPTIMIZER, 3), torch.Generator().manual_seed(5)
    losses = []
    for step in range(3):
        loss = flow_matching_loss(world.experts, "low", tiny_batch(LATENTS, BATCH, seed=step), 5.0, generator, 0, 0, ranks)
        learner.step(loss)
        losses.append(loss.detach())
    assert all(p.dtype == torch.float32 for p in world.experts.low.parameters())
    assert all(value.dtype == torch.float32 for state in learner.optimizer.state.values() for value in state.values())
    return {"losses": torch.stack(losses)}


def test_bfloat16_computes_low_and_keeps_float32_weights():
    (low, other), world, generator = run_ranks(2, in_bfloat16), world_of(), torch.Generator().manual_seed(5)
    learner = Learner(world.experts.low, OPTIMIZER, 3)
    for step in range(3):
        loss = flow_matching_loss(world.experts, "low", tiny_batch(LATENTS, BATCH, seed=step), 5.0, generator, 0, 0)
        assert loss.item() != low["losses"][step] and loss.item() == pytest.approx(float(low["losses"][step]), rel=0.03)
        learner.step(loss)
    assert torch.equal(low["losses"], other["losses"]) and low["losses"].dtype == torch.float32


@given(frames=st.integers(1, 40), per_frame=st.integers(1, 30), ulysses=st.integers(1, 4), ring=st.integers(1, 4))
def test_parts_cover_every_token_once_in_equal_lengths(frames, per_frame, ulysses, ring):
    parts = [SequenceMesh(None, None, None, ulysses, ring, rank).part(frames, per_frame) for rank in range(ulysses * ring)]
    tokens = torch.arange(frames * per_frame)[None, :, None] + 1
    held = [part.of_frames(tokens[:, part.frames.start * per_frame : part.frames.stop * per_frame]) for part in parts]
    assert {x.shape[1] for x in held} == {-(-frames * per_frame // (ulysses * ring))}
    assert torch.equal(torch.cat(held, dim=1)[:, : frames * per_frame], tokens)
    assert all((part.frames.stop - part.frames.start - 1) * per_frame <= part.length + per_frame for part in parts)


def test_what_cannot_be_shared_out_is_refused(monkeypatch):
    with pytest.raises(InputError, match="4 heads for 3 ranks"):
        world_of().experts.low.share_sequence(SequenceMesh(None, None, None, 3, 1, 0))
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(InputError, match="ulysses 2 times ring 2 for 6 ranks"):
        join_ranks(ParallelSettings(ulysses=2, ring=2))
