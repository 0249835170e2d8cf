"""Serving on several devices (paper 5.3): ranks that share the denoising of each chunk, and one that decodes, behind `WorldModel`.

Rank 0 holds the sessions, encodes, and denoises with its helpers; the last rank decodes. Helpers keep no state between chunks except the
decoder's caches: rank 0 sends a chunk's window and the state of its noise generator, all denoise it together and hold the same latents.
Messages are safetensors. If a rank is gone, every rank that notices raises an InputError of one line.

Hierarchical sequence parallelism: heads are partitioned over `ulysses` groups of neighbouring ranks; within a group, tokens are split over
a `ring`. Rank g * ring + i has the heads of group g and token shard i. So the ring, which exchanges keys and values in every layer, connects
neighbours, and the all-to-all crosses groups. Training's mesh (ring, ulysses) has the opposite order.
"""

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from moworld.errors import InputError
from moworld.inference.failures import peer_errors
from moworld.inference.session import to_bytes
from moworld.model.latent_cameras import Rays
from moworld.model.rollout import Denoiser, Noise
from moworld.model.sequence import Group, SequenceMesh, rank_device
from moworld.model.window import Window
from moworld.model.world import WorldModel

IDLE = timedelta(days=30)  # timeout of helpers that wait for the next chunk


@dataclass(frozen=True)
class ServingRanks:
    """Process groups of this rank. `sequence` is None if one rank denoises alone, and on the rank that decodes."""

    rank: int
    decoder: int
    device: torch.device
    sequence: SequenceMesh | None
    denoising: Group
    decoding: Group


def split_ranks(heads: int, ranks: int) -> tuple[int, int]:
    """Returns (ulysses, ring) for `ranks` that denoise: ulysses is the greatest common divisor of ranks and heads."""
    ulysses = math.gcd(heads, ranks)
    return ulysses, ranks // ulysses


def join_serving_ranks(
    world: int, rank: int, heads: int, seconds: float = 60.0, ulysses: int | None = None, device: str = ""
) -> ServingRanks:
    """Creates the process groups of this rank among the `world` ranks of torchrun; all ranks must call it. The last one decodes.

    seconds: timeout of a rank at work that waits for another
    ulysses: groups of heads; None uses `split_ranks`
    device:  see `rank_device`
    Raises InputError for fewer than two ranks, and if `ulysses` does not divide ranks and heads.
    """
    count = world - 1
    if count < 1:
        raise InputError("ranks", "", world, "at least 2: one that denoises and one that decodes", "start more ranks, or none")
    groups = split_ranks(heads, count)[0] if ulysses is None else ulysses
    if count % groups or heads % groups:
        raise InputError("ranks", "ulysses", f"{groups} for {count} ranks and {heads} heads", "a divisor of both", "choose another")
    place, backend = rank_device(device)
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=timedelta(seconds=max(seconds, 300)))
    ring, at_work = count // groups, timedelta(seconds=seconds)
    waits = at_work if rank == 0 else IDLE
    across = [dist.new_group([group * ring + i for group in range(groups)], timeout=at_work) for i in range(ring)]
    inside = [dist.new_group([group * ring + i for i in range(ring)], timeout=at_work) for group in range(groups)]
    whole = dist.new_group(list(range(count)), timeout=at_work)
    denoising, decoding = dist.new_group(list(range(count)), timeout=waits), dist.new_group([0, count], timeout=waits)
    sequence = None
    if rank < count and count > 1:
        group, i = divmod(rank, ring)
        order = tuple(index % groups * ring + index // groups for index in range(count))
        sequence = SequenceMesh(across[i], inside[group], whole, groups, ring, i * groups + group, order)
    return ServingRanks(rank, count, place, sequence, denoising, decoding)


@dataclass(frozen=True)
class SharedDenoiser:
    """Denoises on rank 0 with the helpers, whose experts share the tokens with `own`."""

    own: Denoiser
    ranks: ServingRanks

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        assert isinstance(generator, torch.Generator)
        with peer_errors("denoising"):
            if self.ranks.sequence is not None:
                send(self.ranks.denoising, 0, pack_window(window, schedule, generator))
            return self.own.denoise(window, schedule, generator)


def share_world(world: WorldModel, ranks: ServingRanks) -> WorldModel:
    """Returns the model of rank 0: the helpers denoise its chunks, too, and the last rank decodes them. See `end_helpers`."""
    share_experts(world, ranks)
    denoiser, codec = SharedDenoiser(world.denoiser, ranks), RemoteCodec(world.codec, ranks)
    return WorldModel(world.config, world.experts, world.codec_folder, world.device, denoiser, codec)


def end_helpers(ranks: ServingRanks) -> None:
    """Ends the loops of all helpers. Raises InputError if one is gone."""
    for group in (ranks.denoising, ranks.decoding):
        with peer_errors("closing"):
            send(group, 0, {})


def share_experts(world: WorldModel, ranks: ServingRanks) -> None:
    """Makes the experts share the tokens of each chunk with the other ranks."""
    for _, expert in world.experts.named_experts():
        expert.share_sequence(ranks.sequence)


def pack_window(window: Window, schedule: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Returns the arguments of `Denoiser.denoise` as named tensors."""
    fields = {name: getattr(window, name) for name in ("condition", "history", "frame_ids", "text")}
    rays = {"motion": window.camera.motion, "directions": window.camera.directions}
    return {**fields, **rays, "schedule": schedule, "noise": generator.get_state()}


def unpack_window(message: dict[str, Tensor], device: torch.device | str) -> tuple[Window, Tensor, torch.Generator]:
    """Inverse of `pack_window`. The window is on `device`; schedule and generator stay on the CPU, where rank 0 has them."""
    noise = torch.Generator()
    noise.set_state(message.pop("noise"))
    schedule, on_device = message.pop("schedule"), {name: value.to(device) for name, value in message.items()}
    rays = Rays(on_device.pop("motion"), on_device.pop("directions"))
    return Window(camera=rays, **on_device), schedule, noise


class RemoteCodec:
    """Encodes here and decodes on the last rank. Decoder caches stay there; callers hold their numbers."""

    def __init__(self, codec: Any, ranks: ServingRanks) -> None:
        self.codec, self.ranks, self._count, self._freed = codec, ranks, 0, list[int]()

    def encode(self, video: Tensor) -> Tensor:
        return self.codec.encode(video)  # type: ignore[no-any-return]

    def decode_chunk(self, latents: Tensor, cache: "RemoteCache | None") -> tuple[Tensor, "RemoteCache"]:
        """Like `StreamingCodec.decode_chunk`, but returns uint8 video on the CPU."""
        self._count += 1
        following = RemoteCache(self._count)
        weakref.finalize(following, self._freed.append, self._count)
        freed = [self._freed.pop() for _ in range(len(self._freed))]
        numbers = torch.tensor([0 if cache is None else cache.number, following.number, *freed])
        with peer_errors("decoding"):
            send(self.ranks.decoding, 0, {"latents": latents, "numbers": numbers})
            return receive(self.ranks.decoding, self.ranks.decoder)["video"], following


@dataclass(frozen=True, eq=False)
class RemoteCache:
    """The number of a decoder cache, which the decoder frees after this object is freed."""

    number: int


@torch.inference_mode()
def help_denoising(world: WorldModel, ranks: ServingRanks) -> Iterator[Tensor]:
    """Denoises chunks together with rank 0 until it sends the end; yields the latents of each window."""
    share_experts(world, ranks)
    with peer_errors("rank 0"):
        while message := receive(ranks.denoising, 0):
            yield world.denoiser.denoise(*unpack_window(message, ranks.device))


@torch.inference_mode()
def help_decoding(codec: Any, ranks: ServingRanks) -> None:
    """Decodes the chunks of all sessions until rank 0 sends the end."""
    caches = dict[int, Any]()
    with peer_errors("rank 0"):
        while message := receive(ranks.decoding, 0):
            before, after, *freed = message["numbers"].tolist()
            latents = message["latents"].to(ranks.device)
            video, caches[after] = codec.decode_chunk(latents, caches[before] if before else None)
            for number in freed:
                del caches[number]
            send(ranks.decoding, ranks.decoder, {"video": to_bytes(video)})


def send(group: Group, source: int, tensors: dict[str, Tensor]) -> None:
    """Broadcasts named tensors from rank `source` to a group; an empty dict is the end."""
    data = save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}) if tensors else b""
    dist.broadcast(torch.tensor([len(data)]), source, group=group)
    if data:
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), source, group=group)


def receive(group: Group, source: int) -> dict[str, Tensor]:
    """Returns the tensors that `send` broadcasts, on the CPU."""
    size = torch.zeros(1, dtype=torch.long)
    dist.broadcast(size, source, group=group)
    if not size:
        return {}
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, source, group=group)
    return load(data.numpy().tobytes())
