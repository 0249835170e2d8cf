"""Serving on ranks: the frames of one device, the same latents on every rank, decoding beside denoising, and one line if a rank is gone."""

import os
import signal
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.errors import InputError
from moworld.inference.ranks import end_helpers, help_decoding, help_denoising, join_serving_ranks, share_world, split_ranks
from moworld.inference.session import WorldSession, stream
from moworld.model.codec import StreamingCodec
from tests.cluster import wait_for
from tests.moworld.inference.worlds import Letters, picture, served_world
from tests.moworld.ranks import _rank, context, run_ranks

CONTROLS = ["wl*12", "jw*12", "s*12"]
SIZES = {"num_attention_heads": 4, "num_layers": 2}


def play(world, controls=CONTROLS) -> tuple[np.ndarray, torch.Tensor]:
    """Frames and latents of two sessions' chunks in turn, the second with shorter chunks."""
    sessions = [WorldSession(world, Letters()), WorldSession(world, Letters(), chunk_latents=2)]
    frames = [session.open(picture(seed=seed), "a hall", seed) for seed, session in enumerate(sessions)]
    for keys in controls:
        for session, part in zip(sessions, (keys, "w*8"), strict=True):
            frames += list(stream(session, [part]))
    return np.concatenate(frames), torch.cat([session.rollout.bank.latents for session in sessions], dim=2)


def serve(rank: int, count: int, ulysses: int, history: str) -> dict[str, torch.Tensor]:
    """Runs one rank of a serving world; returns frames and latents on rank 0, the latents of windows on helpers."""
    with tempfile.TemporaryDirectory() as folder:
        world = served_world(Path(folder), history_attention=history, **SIZES)
        ranks = join_serving_ranks(count, rank, 4, ulysses=ulysses)
        if rank == ranks.decoder:
            help_decoding(world.codec, ranks)
            return {}
        if rank:
            windows = [window[:, :, 1:] for window in help_denoising(world, ranks)]
            return {"windows": torch.cat(windows, dim=2)}
        frames, latents = play(share_world(world, ranks))
        end_helpers(ranks)
        return {"frames": torch.from_numpy(frames), "latents": latents}


@cache
def expected(history: str) -> tuple[np.ndarray, torch.Tensor]:
    """Frames and latents of a single process with one thread, as each rank has: other partial sums round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = play(served_world(Path(folder), history_attention=history, **SIZES))
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(
    ("denoising", "ulysses", "history"),
    [
        (1, 1, "block_causal"), (2, 2, "joint"), (2, 1, "block_causal"), (4, 2, "joint"),
        pytest.param(4, 4, "block_causal", marks=pytest.mark.slow), pytest.param(4, 1, "joint", marks=pytest.mark.slow),
        pytest.param(4, 2, "block_causal", marks=pytest.mark.slow),
    ],
    ids=["alone", "heads2", "ring2", "2groups-of-ring2", "heads4", "ring4", "2groups-of-ring2-causal"],
)  # fmt: skip
def test_ranks_produce_the_frames_of_one_device_and_hold_the_same_latents(denoising, ulysses, history):
    frames, latents = expected(history)
    first, *helpers, _ = run_ranks(denoising + 1, serve, denoising + 1, ulysses, history)
    torch.testing.assert_close(first["latents"], latents, rtol=1e-4, atol=1e-4)
    assert np.abs(first["frames"].numpy().astype(int) - frames).max() <= 1
    if denoising == 1:
        assert torch.equal(first["latents"], latents)
    own = first["latents"]
    made = [
        part
        for index in range(len(CONTROLS))
        for part in (own[:, :, 1 + 3 * index : 4 + 3 * index], own[:, :, 11 + 2 * index : 13 + 2 * index])
    ]
    assert all(torch.equal(helper["windows"], torch.cat(made, dim=2)) for helper in helpers)


@pytest.mark.slow
def test_two_runs_give_the_same_bits():
    one, other = (run_ranks(3, serve, 3, 1, "block_causal")[0] for _ in range(2))
    assert torch.equal(one["latents"], other["latents"]) and torch.equal(one["frames"], other["frames"])


@pytest.mark.parametrize(("ranks", "shares"), [(1, (1, 1)), (2, (2, 1)), (7, (1, 7)), (15, (5, 3)), (16, (8, 2)), (31, (1, 31))])
def test_ranks_are_split_over_heads_first_and_over_tokens_for_the_rest(ranks, shares):
    assert split_ranks(40, ranks) == shares


def lost(rank: int, count: int, victim: int, sent: int, seconds: float) -> str:
    """Rank `victim` is sent a signal after the first chunk; returns the error of rank 0 in a later chunk."""
    with tempfile.TemporaryDirectory() as folder:
        world = served_world(Path(folder), history_attention="block_causal", **SIZES)
        ranks = join_serving_ranks(count, rank, 4, seconds)
        if rank == ranks.decoder:
            codec = world.codec
            if rank == victim:
                codec = Mortal(codec, sent)
            help_decoding(codec, ranks)
        elif rank:
            for _ in help_denoising(world, ranks):
                if rank == victim:
                    os.kill(os.getpid(), sent)
        else:
            session = WorldSession(share_world(world, ranks), Letters())
            session.open(picture(), "a hall")
            try:
                for keys in CONTROLS:
                    session.step(keys)
            except InputError as error:
                return str(error)
        return ""


class Mortal:
    """A decoder that is sent a signal when it has decoded the first frame."""

    def __init__(self, codec: StreamingCodec, sent: int) -> None:
        self.codec, self.sent, self.calls = codec, sent, 0

    def decode_chunk(self, latents, cache):
        self.calls += 1
        if self.calls == 2:
            os.kill(os.getpid(), self.sent)
        return self.codec.decode_chunk(latents, cache)


@pytest.mark.parametrize(("victim", "what"), [(1, "denoising"), (2, "decoding")])
@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=["killed", "stopped"])
def test_a_rank_that_is_gone_ends_the_session_with_one_line(tmp_path, victim, what, sent):
    arguments = (3, victim, int(sent), 5.0)
    processes = [context().Process(target=_rank, args=(rank, 3, str(tmp_path), lost, arguments), daemon=True) for rank in range(3)]
    for process in processes:
        process.start()
    result = tmp_path / "0"
    wait_for(lambda: result.is_file() or not processes[0].is_alive(), 120)
    for process in processes:
        process.kill()
        process.join()
    assert result.is_file(), [path.read_text() for path in tmp_path.glob("*.error")]
    line = torch.load(result, weights_only=True)
    assert line.startswith(f"ranks: {what}: found ") and line.endswith("start the ranks and the session again") and "\n" not in line


def test_a_single_rank_and_indivisible_heads_are_refused():
    with pytest.raises(InputError, match="at least 2"):
        join_serving_ranks(1, 0, 4)
    with pytest.raises(InputError, match="3 for 4 ranks and 12 heads"):
        join_serving_ranks(5, 0, 12, ulysses=3)
