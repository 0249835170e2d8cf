"""Sequence parallelism: ranks share the tokens of one sample, as a product of Ulysses over heads and a ring over tokens (USP).

Rank r of a sequence group holds the r-th of equal parts of the tokens, the last parts padded. Attention exchanges heads for tokens within a
Ulysses group, and sends keys and values round a ring of such groups. All else in a block is local.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.attention import join, partial_attention, partial_attention_backward
from moworld.errors import InputError

Group = Any  # a torch.distributed process group; absent types keep single-rank code free of the package


@dataclass(frozen=True)
class Part:
    """The tokens [start, stop) of `total` that a rank holds, padded to `length`; they lie in the latent frames `frames`."""

    start: int
    stop: int
    length: int
    total: int
    frames: slice
    tokens_per_frame: int

    def of_frames(self, x: Tensor) -> Tensor:
        """(B, tokens of `frames`, ...) -> (B, length, ...): this rank's tokens, zeros behind them."""
        first = self.frames.start * self.tokens_per_frame
        x = x[:, self.start - first : self.stop - first]
        missing = self.length - x.shape[1]
        return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1) if missing else x


@dataclass(frozen=True)
class SequenceMesh:
    """A rank's place among those that share a sample: `ring` times `ulysses` ranks; `rank` counts parts of tokens, Ulysses innermost.

    order: the ranks of `group` in the order of their parts; empty where they are numbered in it
    """

    ulysses_group: Group
    ring_group: Group
    group: Group
    ulysses: int
    ring: int
    rank: int
    order: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.ulysses * self.ring

    def check_heads(self, heads: int) -> None:
        """Raises InputError where the heads cannot be dealt out evenly."""
        if heads % self.ulysses:
            found, mend = f"{heads} heads for {self.ulysses} ranks", "choose a divisor, and a ring for the rest"
            raise InputError("parallel", "ulysses", found, "a degree that divides the heads", mend)

    def part(self, frames: int, tokens_per_frame: int) -> Part:
        """This rank's part of `frames` times `tokens_per_frame` tokens."""
        total = frames * tokens_per_frame
        length = -(-total // self.size)
        start, stop = (min(total, (self.rank + end) * length) for end in (0, 1))
        first = min(start // tokens_per_frame, frames - 1)
        last = max(first + 1, -(-stop // tokens_per_frame))
        return Part(start, stop, length, total, slice(first, last), tokens_per_frame)

    def to_heads(self, x: Tensor) -> Tensor:
        """Tokens of this rank with all heads (B, length, H, D) -> tokens of its place in the ring with its heads (B, block, H/ulysses, D)."""
        return _heads_for_tokens(x, self.ulysses, self.ulysses_group)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, total: int, past: tuple[Tensor, Tensor] | None = None, known: int = 0
    ) -> Tensor:
        """Attention of this rank's queries to all `total` tokens of the sample, and to `known` tokens before them. Differentiable.

        query, key, value: (B, block, H/ulysses, D), from `to_heads`
        past:              keys and values of the known tokens at this place of the ring, with these heads, each from `to_heads`
        returns:           (B, length, H, D)
        """
        counts, own = self._counts(key.shape[1], total), self.rank // self.ulysses
        if past is not None:
            before = self._counts(past[0].shape[1], known)
            key, value = (_behind(old, before[own], new, counts[own]) for old, new in zip(past, (key, value), strict=True))
            counts = [sum(pair) for pair in zip(before, counts, strict=True)]
        query, key, value = (x.transpose(1, 2).contiguous() for x in (query, key, value))
        if self.ring == 1:
            output = torch.nn.functional.scaled_dot_product_attention(query, key[:, :, : counts[0]], value[:, :, : counts[0]])
        else:
            output = _RingAttention.apply(query, key, value, counts, self.ring_group)  # type: ignore[no-untyped-call]
        return _tokens_for_heads(output.transpose(1, 2), self.ulysses, self.ulysses_group)

    def _counts(self, block: int, total: int) -> list[int]:
        """How many tokens of each block of the ring are no padding."""
        return [max(0, min(block, total - index * block)) for index in range(self.ring)]

    def gather(self, x: Tensor, total: int) -> Tensor:
        """(B, length, D) of every rank -> (B, total, D) on every rank.

        Each rank goes on to compute the same loss from the whole, and gradients are then averaged over all ranks, those that share a
        sample included. The backward pass therefore takes the own part times the number of ranks: their average is then the gradient.
        """
        return _Gather.apply(x, self.order or range(self.size), self.rank, self.group)[:, :total]  # type: ignore[no-untyped-call, no-any-return]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        received = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, gradient.contiguous(), group=ctx.group)
        return received, None


def _heads_for_tokens(x: Tensor, ranks: int, group: Group) -> Tensor:
    """(B, n, H, D) -> (B, ranks * n, H / ranks, D)."""
    if ranks == 1:
        return x
    sent = x.unflatten(2, (ranks, -1)).permute(2, 0, 1, 3, 4).contiguous()  # (ranks, B, n, H / ranks, D)
    return _AllToAll.apply(sent, group).transpose(0, 1).flatten(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def _tokens_for_heads(x: Tensor, ranks: int, group: Group) -> Tensor:
    """(B, ranks * n, H / ranks, D) -> (B, n, H, D)."""
    if ranks == 1:
        return x
    sent = x.unflatten(1, (ranks, -1)).transpose(0, 1).contiguous()  # (ranks, B, n, H / ranks, D)
    return _AllToAll.apply(sent, group).permute(1, 2, 0, 3, 4).flatten(2, 3)  # type: ignore[no-untyped-call, no-any-return]


def _behind(old: Tensor, known: int, new: Tensor, count: int) -> Tensor:
    """Known tokens, then new ones, then the padding of both: (B, M, h, D) and (B, N, h, D) -> (B, M + N, h, D)."""
    padding = new.new_zeros(new.shape[0], old.shape[1] + new.shape[1] - known - count, *new.shape[2:])
    return torch.cat([old[:, :known], new[:, :count], padding], dim=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Sequence[int], rank: int, group: Group) -> Tensor:
        ctx.size, ctx.rank, ctx.length = len(order), rank, x.shape[1]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in order]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat([parts[index] for index in order], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return gradient[:, ctx.rank * ctx.length : (ctx.rank + 1) * ctx.length] * ctx.size, None, None, None


class _RingAttention(torch.autograd.Function):
    """Ring attention, exact: key and value blocks travel once round forward; backward, their gradients travel with them and come home."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counts: list[int], group: Group) -> Tensor:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        output, lse = torch.zeros_like(query, dtype=torch.float32), query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32)
        block = torch.stack([key, value])
        for hop in range(size):
            sending = _send_on(block, group) if hop + 1 < size else None
            if count := counts[(rank - hop) % size]:
                output, lse = join(output, lse, *partial_attention(query, block[0, :, :, :count], block[1, :, :, :count]))
            if sending is not None:
                block = sending.wait()
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.counts, ctx.group = counts, group
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, output, lse = ctx.saved_tensors
        rank, size = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        gradient = gradient.contiguous()
        of_query, block = torch.zeros_like(query, dtype=torch.float32), torch.stack([key, value])
        of_block = torch.zeros_like(block, dtype=torch.float32)
        for hop in range(size):
            sending = _send_on(block, ctx.group) if hop + 1 < size else None
            if count := ctx.counts[(rank - hop) % size]:
                parts = partial_attention_backward(gradient, query, block[0, :, :, :count], block[1, :, :, :count], output, lse)
                of_query += parts[0]
                of_block[0, :, :, :count] += parts[1]
                of_block[1, :, :, :count] += parts[2]
            of_block = _send_on(of_block, ctx.group).wait()
            if sending is not None:
                block = sending.wait()
        return of_query.to(query.dtype), of_block[0].to(query.dtype), of_block[1].to(query.dtype), None, None


@dataclass(frozen=True)
class _Sending:
    works: list[Any]
    received: Tensor
    sent: Tensor  # kept alive until it is through

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received


def _send_on(x: Tensor, group: Group) -> _Sending:
    """Send `x` to the next rank of the ring while the previous one's is received."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    after, before = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
    received = torch.empty_like(x)
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, x, after, group), dist.P2POp(dist.irecv, received, before, group)])
    return _Sending(works, received, x)


def rank_device() -> tuple[torch.device, str]:
    """The accelerator of this rank with the backend that joins its kind; gloo on CPUs."""
    index = int(os.environ.get("LOCAL_RANK", "0"))
    for kind, backend in (("npu", "hccl"), ("cuda", "nccl")):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            module.set_device(index)
            return torch.device(kind, index), f"cpu:gloo,{kind}:{backend}"  # checkpoints speak through the CPUs
    return torch.device("cpu"), "gloo"
