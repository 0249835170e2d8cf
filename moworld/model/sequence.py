"""Sequence parallelism: ranks share the tokens of one sample, by Ulysses over heads times a ring over tokens (USP).

Tokens are split into equal parts, one per rank of the sequence group; the last parts are padded. Attention exchanges heads for tokens
within a Ulysses group and passes keys and values around a ring of such groups. Everything else in a block is local to a rank.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moworld.devices import ACCELERATORS, pick_device
from moworld.kernels.attention import attention, attention_backward, join

Group = Any  # a torch.distributed process group


class KeysValues(NamedTuple):
    """Rotated keys and values of tokens, (B, M, H, head_dim) each; on a sequence mesh, of one ring block and the rank's own heads.

    num_tokens: how many tokens these are on all ranks together, without padding
    """

    key: Tensor
    value: Tensor
    num_tokens: int


@dataclass(frozen=True)
class Part:
    """The tokens [start, stop) of `total` that a rank of `mesh` holds, padded to `length`. They are in the latent frames `frames`."""

    mesh: "SequenceMesh"
    start: int
    stop: int
    length: int
    total: int
    frames: slice
    tokens_per_frame: int

    def select(self, x: Tensor) -> Tensor:
        """Returns this rank's tokens, zero-padded: (B, tokens of `frames`, ...) -> (B, length, ...)."""
        first = self.frames.start * self.tokens_per_frame
        x = x[:, self.start - first : self.stop - first]
        missing = self.length - x.shape[1]
        return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1) if missing else x


@dataclass(frozen=True)
class SequenceMesh:
    """The `ring` times `ulysses` ranks that share a sample; `rank` is the index of this rank's part, Ulysses innermost.

    order: the ranks of `group` in the order of their parts; empty if they are numbered in that order
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

    def part(self, frames: int, tokens_per_frame: int) -> Part:
        """Returns this rank's part of `frames` times `tokens_per_frame` tokens."""
        total = frames * tokens_per_frame
        length = -(-total // self.size)
        start, stop = (min(total, (self.rank + end) * length) for end in (0, 1))
        first = min(start // tokens_per_frame, frames - 1)
        last = max(first + 1, -(-stop // tokens_per_frame))
        return Part(self, start, stop, length, total, slice(first, last), tokens_per_frame)

    def to_heads(self, x: Tensor) -> Tensor:
        """Exchanges heads for tokens: (B, length, H, D) of this rank -> (B, block, H / ulysses, D) of its ring block."""
        if self.ulysses == 1:
            return x
        sent = x.unflatten(2, (self.ulysses, -1)).permute(2, 0, 1, 3, 4).contiguous()  # (ulysses, B, length, H / ulysses, D)
        return _AllToAll.apply(sent, self.ulysses_group).transpose(0, 1).flatten(1, 2)  # type: ignore[no-untyped-call, no-any-return]

    def to_tokens(self, x: Tensor) -> Tensor:
        """Inverse of `to_heads`."""
        if self.ulysses == 1:
            return x
        sent = x.unflatten(1, (self.ulysses, -1)).transpose(0, 1).contiguous()  # (ulysses, B, length, H / ulysses, D)
        return _AllToAll.apply(sent, self.ulysses_group).permute(1, 2, 0, 3, 4).flatten(2, 3)  # type: ignore[no-untyped-call, no-any-return]

    def attend(self, query: Tensor, own: KeysValues, past: KeysValues | None = None) -> Tensor:
        """Attends from this rank's queries to all tokens of the sample and to the `past` tokens before them. Differentiable.

        query:   (B, block, H / ulysses, D) from `to_heads`, as are the keys and values of `own` and `past`
        returns: (B, length, H, D)
        """
        block = self.rank // self.ulysses
        key, value, counts = own.key, own.value, self._counts(own.key.shape[1], own.num_tokens)
        if past is not None:
            before = self._counts(past.key.shape[1], past.num_tokens)
            key, value = (_append(old, before[block], new, counts[block]) for old, new in zip(past[:2], own[:2], strict=True))
            counts = [sum(pair) for pair in zip(before, counts, strict=True)]
        query, key, value = (x.transpose(1, 2).contiguous() for x in (query, key, value))
        if self.ring == 1:
            output = torch.nn.functional.scaled_dot_product_attention(query, key[:, :, : counts[0]], value[:, :, : counts[0]])
        else:
            output = _RingAttention.apply(query, key, value, counts, self.ring_group)  # type: ignore[no-untyped-call]
        return self.to_tokens(output.transpose(1, 2))

    def _counts(self, block: int, total: int) -> list[int]:
        """Number of tokens in each block of the ring, without padding."""
        return [max(0, min(block, total - index * block)) for index in range(self.ring)]

    def gather(self, x: Tensor, total: int) -> Tensor:
        """Gathers (B, length, D) of every rank to (B, total, D) on every rank.

        Every rank computes the same loss from the result, and gradients are averaged over all ranks, including those that share a
        sample. The backward pass therefore multiplies a rank's gradient by the number of ranks, so that the average is correct.
        """
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, x.detach().contiguous(), group=self.group)
        parts = [parts[index] for index in self.order or range(self.size)]
        parts[self.rank] = x.view_as(x)
        if x.requires_grad:
            parts[self.rank].register_hook(lambda gradient: gradient * self.size)
        return torch.cat(parts, dim=1)[:, :total]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _AllToAll.forward(ctx, gradient.contiguous(), ctx.group), None


def _append(old: Tensor, num_old: int, new: Tensor, num_new: int) -> Tensor:
    """Returns (B, M + N, h, D): the valid tokens of `old` and `new`, then the padding of both."""
    padding = new.new_zeros(new.shape[0], old.shape[1] + new.shape[1] - num_old - num_new, *new.shape[2:])
    return torch.cat([old[:, :num_old], new[:, :num_new], padding], dim=1)


class _RingAttention(torch.autograd.Function):
    """Exact ring attention. Key and value blocks pass around the ring once; in backward, their gradients pass around with them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counts: list[int], group: Group) -> Tensor:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        output, lse = torch.zeros_like(query, dtype=torch.float32), query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32)
        block = torch.stack([key, value])
        for hop in range(size):
            sending = _send(block, group) if hop + 1 < size else None
            if count := counts[(rank - hop) % size]:
                output, lse = join(output, lse, *attention(query, block[0, :, :, :count], block[1, :, :, :count], return_lse=True))
            if sending is not None:
                block = sending()
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.counts, ctx.group = counts, group
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, output, lse = ctx.saved_tensors
        rank, size = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        gradient = gradient.contiguous()
        query_gradient, block = torch.zeros_like(query, dtype=torch.float32), torch.stack([key, value])
        block_gradient = torch.zeros_like(block, dtype=torch.float32)
        for hop in range(size):
            sending = _send(block, ctx.group) if hop + 1 < size else None
            if count := ctx.counts[(rank - hop) % size]:
                parts = attention_backward(gradient, query, block[0, :, :, :count], block[1, :, :, :count], output, lse)
                query_gradient += parts[0]
                block_gradient[0, :, :, :count] += parts[1]
                block_gradient[1, :, :, :count] += parts[2]
            block_gradient = _send(block_gradient, ctx.group)()
            if sending is not None:
                block = sending()
        return query_gradient.to(query.dtype), block_gradient[0].to(query.dtype), block_gradient[1].to(query.dtype), None, None


def _send(x: Tensor, group: Group) -> Callable[[], Tensor]:
    """Starts sending `x` to the next rank of the ring; returns a function that waits for the previous rank's tensor and returns it."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    after, before = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
    received = torch.empty_like(x)
    operations = [dist.P2POp(dist.isend, x, after, group), dist.P2POp(dist.irecv, received, before, group)]
    works = dist.batch_isend_irecv(operations)

    def wait() -> Tensor:
        for work in works:
            work.wait()
        operations.clear()  # which kept `x` allocated until the transfer ended
        return received

    return wait


def rank_device(name: str = "") -> tuple[torch.device, str]:
    """Returns this rank's device and its process-group backend: the accelerator LOCAL_RANK of the machine, or the CPU and gloo.

    name: a kind of device instead of the one that `pick_device` chooses
    """
    device = pick_device(name)
    if device.type not in ACCELERATORS:
        return device, "gloo"
    device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
    torch.accelerator.set_device_index(device.index)
    backend = dist.get_default_backend_for_device(device.type)  # nccl, hccl
    return device, f"cpu:gloo,{device.type}:{backend}"  # gloo for checkpoints and messages
