"""Several ranks compute the losses, gradients and weights of one: Ulysses, ring, their product and FSDP, with and without history."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor

from moworld.distillation.autoregressive import autoregressive_loss
from moworld.distillation.settings import AutoregressiveSettings
from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.model.experts import Experts
from moworld.model.sequence import SequenceMesh
from moworld.model.world import WorldModel
from moworld.training.loop import Learner
from moworld.training.objective import flow_matching_loss
from moworld.training.parallel import Ranks, join_ranks
from moworld.training.settings import OptimizerSettings, ParallelSettings
from tests.moworld.ranks import joined, run_ranks
from tests.moworld.worlds import counted_saved_bytes, tiny_batch, tiny_world

STEPS = 5
BATCH, LATENTS = 4, 7  # 7 frames of 2 tokens: 14 tokens, not divisible by 4 or 3 ranks
KINDS = ("plain", "history", "block-causal")
OPTIMIZER = OptimizerSettings(lr=1e-3, clip=0.5, average=0.9)


def world_of(heads: int = 4, **model: object):
    world = tiny_world(num_layers=2, num_attention_heads=heads, **model)
    world.experts.train()
    return world


def train_steps(ranks: Ranks, kind: str) -> dict[str, torch.Tensor]:
    """Returns losses, the first step's gradients and the last weights of STEPS optimizer steps on this rank's samples.

    kind: "plain" windows, windows with "history" that attends jointly, or "block-causal" history
    """
    world, history = world_of(history_attention="block_causal" if kind == "block-causal" else "joint"), kind != "plain"
    expert = world.experts.low
    ranks.place(expert)
    learner, generator = Learner(expert, OPTIMIZER, STEPS), torch.Generator().manual_seed(5)
    gradients: dict[str, torch.Tensor] = {}
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
            gradients |= {f"gradient {name}": whole(p.grad).clone() for name, p in expert.named_parameters() if p.grad is not None}
            learner.optimizer.zero_grad(set_to_none=True)
            loss = ranks_loss_again(world, batch, history, ranks)
            generator.manual_seed(6)
        learner.step(loss)
    weights = {f"weight {name}": whole(p.detach()) for name, p in expert.named_parameters()}
    averages = {f"average {name}": whole(a) for name, a in zip(learner.named, learner.averages, strict=True)}
    return {**gradients, **weights, **averages, "losses": torch.stack(losses)}


def ranks_loss_again(world, batch, history: bool, ranks: Ranks) -> torch.Tensor:
    """Returns the first step's loss again, because reading its gradients freed its graph."""
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
        (4, 2, 2, False),
        pytest.param(4, 4, 1, False, marks=pytest.mark.slow),
        pytest.param(4, 1, 4, True, marks=pytest.mark.slow),
        pytest.param(4, 2, 1, True, marks=pytest.mark.slow),
    ],
    ids=["fsdp2", "usp2x2", "ulysses4", "ring4", "ulysses2-data2"],
)
def test_ranks_train_like_one(alone, world, ulysses, ring, checkpoint):
    results = run_ranks(world, on_ranks, ulysses, ring, checkpoint)
    for found in results:  # every rank has the full weights
        for name, expected in alone.items():
            torch.testing.assert_close(found[name]["losses"], expected["losses"], rtol=1e-5, atol=1e-5)
            assert {key for key in found[name] if key.startswith("gradient")} == {key for key in expected if key.startswith("gradient")}
            for key, value in expected.items():
                if key != "losses" and value.norm() > 1e-7:
                    # AdamW's first steps amplify the rounding of tiny gradients, so weights have a larger tolerance
                    tolerance = 1e-4 if key.startswith("gradient") else 3e-3 if name == "block-causal" else 1e-3
                    assert (found[name][key] - value).norm() <= tolerance * value.norm(), (name, key)


def test_the_kinds_differ_and_the_weights_change_by_more_than_the_tolerance(alone):
    assert not torch.equal(alone["plain"]["losses"], alone["history"]["losses"])
    for name, start in world_of().experts.low.named_parameters():
        if name.endswith("to_q.weight"):
            assert (alone["plain"][f"weight {name}"] - start).norm() > 5e-3 * start.norm()


def saved_bytes(rank: int, ulysses: int, ring: int) -> int:
    """Returns the bytes that the forward pass of the longest pocket clip keeps for the backward pass, without weights and inputs."""
    ranks = joined(ulysses, ring) if ulysses * ring > 1 else Ranks()
    world, batch = world_of(), tiny_batch(49, 1)
    world.experts.low.share_sequence(ranks.sequence)
    with counted_saved_bytes([*world.experts.parameters(), *batch.values()]) as seen:
        loss = flow_matching_loss(world.experts, "low", batch, 5.0, torch.Generator().manual_seed(0), 0, 0, ranks)
    assert loss.requires_grad
    return sum(seen.values())


SHARES = [(2, 2, 0.35), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 1, 0.35), (1, 4, 0.35)))]


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


def test_bfloat16_computes_in_bfloat16_and_updates_float32_weights():
    (low, other), world, generator = run_ranks(2, in_bfloat16), world_of(), torch.Generator().manual_seed(5)
    learner = Learner(world.experts.low, OPTIMIZER, 3)
    for step in range(3):
        loss = flow_matching_loss(world.experts, "low", tiny_batch(LATENTS, BATCH, seed=step), 5.0, generator, 0, 0)
        assert loss.item() != low["losses"][step] and loss.item() == pytest.approx(float(low["losses"][step]), rel=0.03)
        learner.step(loss)
    assert torch.equal(low["losses"], other["losses"]) and low["losses"].dtype == torch.float32


@given(frames=st.integers(1, 40), per_frame=st.integers(1, 30), ulysses=st.integers(1, 4), ring=st.integers(1, 4))
def test_parts_have_equal_lengths_and_cover_each_token_once(frames, per_frame, ulysses, ring):
    parts = [SequenceMesh(None, None, None, ulysses, ring, rank).part(frames, per_frame) for rank in range(ulysses * ring)]
    tokens = torch.arange(frames * per_frame)[None, :, None] + 1
    held = [part.select(tokens[:, part.frames.start * per_frame : part.frames.stop * per_frame]) for part in parts]
    assert {x.shape[1] for x in held} == {-(-frames * per_frame // (ulysses * ring))}
    assert torch.equal(torch.cat(held, dim=1)[:, : frames * per_frame], tokens)
    assert all((part.frames.stop - part.frames.start - 1) * per_frame <= part.length + per_frame for part in parts)


def test_ranks_that_cannot_divide_the_work_are_refused(monkeypatch):
    with pytest.raises(InputError, match="4 heads for 3 ranks"):
        world_of().experts.low.share_sequence(SequenceMesh(None, None, None, 3, 1, 0))
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(InputError, match="ulysses 2 times ring 2 for 6 ranks"):
        join_ranks(ParallelSettings(ulysses=2, ring=2))


def sharded_copies(rank: int, folder: str) -> dict[str, torch.Tensor]:
    """Loads a model sharded, in float32 and bfloat16, copies it and writes it again; returns what differs from the whole model."""
    ranks, found, held = joined(dtype="bfloat16"), {}, list[float]()
    whole_world = WorldModel.load(folder)
    loaded = WorldModel.load(folder, place=ranks.place)
    frozen = WorldModel.load(folder, dtype=ranks.dtype, names=["low"], place=ranks.place)
    assert all(p.is_meta for p in frozen.experts.high.parameters())  # not read
    copied = ranks.copy(Experts(frozen.experts.low, None, 0.0), torch.float32)
    for name, expected in whole_world.experts.low.state_dict().items():
        parts = {"loaded": loaded.experts.low, "frozen": frozen.experts.low, "copied": copied.high}
        tensors = {key: expert.state_dict()[name] for key, expert in parts.items()}
        assert all(isinstance(tensor, DTensor) for tensor in tensors.values())
        held += [tensor.to_local().numel() / tensor.numel() for tensor in tensors.values() if tensor.shape[0] > 1]
        assert tensors["frozen"].dtype == torch.bfloat16 and tensors["copied"].dtype == torch.float32
        found[f"loaded {name}"] = (whole(tensors["loaded"]) - expected).abs().max()
        found[f"frozen {name}"] = (whole(tensors["frozen"]) - expected.bfloat16()).abs().max()
        found[f"copied {name}"] = (whole(tensors["copied"]) - expected.bfloat16()).abs().max()
    assert max(held) < 0.7
    window_loss = [flow_matching_loss(e, "high", tiny_batch(LATENTS, 2), 5.0, torch.Generator().manual_seed(1), ranks=Ranks())
                   for e in (Experts(frozen.experts.low, None, 0.0), copied)]  # fmt: skip
    found["loss of a copy"] = (window_loss[0] - window_loss[1]).abs().detach()
    loaded.save(f"{folder}-again", write=ranks.is_first)
    return {key: value.float() for key, value in found.items()}


def test_weights_are_loaded_copied_and_saved_shard_by_shard(tmp_path):
    world = world_of()
    world.save(tmp_path / "model")
    for found in run_ranks(2, sharded_copies, str(tmp_path / "model")):
        assert {key: float(value) for key, value in found.items() if value} == {}
    assert sha256_tree(tmp_path / "model") == sha256_tree(tmp_path / "model-again")


def first_ranks_answers(rank: int) -> list:
    ranks, called = joined(), list[int]()

    def refuse() -> None:
        raise InputError("base", "", "nothing", "weights", "name some")

    def answer() -> dict[str, object]:
        called.append(rank)
        return {"rank": rank, "text": "é" * 9}

    found = [ranks.from_first(answer)]
    try:
        ranks.from_first(refuse)
    except InputError as error:
        found.append(str(error))
    return [*found, called]


def test_only_the_first_rank_computes_and_all_ranks_get_its_result_or_error():
    answers = run_ranks(2, first_ranks_answers)
    assert [answer[:2] for answer in answers] == [[{"rank": 0, "text": "é" * 9}, "base: found nothing, expected weights; name some"]] * 2
    assert [answer[2] for answer in answers] == [[0], []]
