"""Many devices (paper 5.3): ranks that share the denoising of each chunk, and one that decodes, behind the interface of `WorldModel`.

Rank 0 holds the sessions, encodes, and denoises together with the others; the last rank decodes. Helpers keep nothing between chunks but
the decoder's caches: rank 0 sends a chunk's window and the state of its noise, all denoise it in step, and all hold the same latents.
Messages are safetensors. A rank that is gone ends the session with one line, on whichever rank notices.

Hierarchical sequence parallelism: heads are partitioned over `ulysses` groups of neighbouring ranks; inside a group, tokens are split over
a `ring`. Rank g * ring + i has the heads of group g and the i-th stretch of tokens, so the ring, which speaks in every layer for as long as
keys and values travel, runs between neighbours, and the all-to-all crosses groups. Training's mesh (ring, ulysses) is the same product
with the two in the other order: there, the all-to-all runs between neighbours.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from moworld.errors import InputError
from moworld.inference.session import to_bytes
from moworld.model.latent_cameras import Rays
from moworld.model.rollout import Noise
from moworld.model.sequence import Group, SequenceMesh, rank_device
from moworld.model.window import Window
from moworld.model.world import WorldModel

IDLE = timedelta(days=30)  # how long a helper waits for the next chunk


@dataclass(frozen=True)
class ServingRanks:
    """This rank's place. `sequence` is None where one rank denoises alone, and on the rank that decodes."""

    rank: int
    decoder: int
    device: torch.device
    sequence: SequenceMesh | None
    denoising: Group
    decoding: Group


def share(heads: int, ranks: int) -> tuple[int, int]:
    """(ulysses, ring) for `ranks` that denoise: as many groups of heads as divide both, tokens for the rest."""
    ulysses = max(degree for degree in range(1, ranks + 1) if ranks % degree == 0 and heads % degree == 0)
    return ulysses, ranks // ulysses


def join_serving_ranks(world: int, rank: int, heads: int, seconds: float = 60.0, ulysses: int | None = None) -> ServingRanks:
    """This process's place among those that torchrun started: all but the last denoise. All ranks must call it.

    seconds: how long a rank at work waits for another
    ulysses: groups of heads; None takes what `share` gives
    Raises InputError where there is none to decode apart, or the ranks cannot be dealt out.
    """
    count = world - 1
    if count < 1:
        raise InputError("ranks", "", world, "at least 2: one that denoises and one that decodes", "start more, or none")
    groups = share(heads, count)[0] if ulysses is None else ulysses
    if count % groups or heads % groups:
        raise InputError("ranks", "ulysses", f"{groups} for {count} ranks and {heads} heads", "a divisor of both", "choose another")
    device, backend = rank_device()
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
        order = tuple(place % groups * ring + place // groups for place in range(count))
        sequence = SequenceMesh(across[i], inside[group], whole, groups, ring, i * groups + group, order)
    return ServingRanks(rank, count, device, sequence, denoising, decoding)


class SharedWorld(WorldModel):
    """Rank 0's view: a world whose chunks are denoised by several ranks and decoded by another. `close` sends the helpers home."""

    def __init__(self, world: WorldModel, ranks: ServingRanks) -> None:
        super().__init__(world.config, world.experts, world.codec_folder)
        self.ranks, self._codec = ranks, RemoteCodec(world.codec, ranks)
        share_experts(self, ranks)

    @property
    def codec(self) -> "RemoteCodec":
        return self._codec

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        assert isinstance(generator, torch.Generator)
        with others_present("denoising"):
            if self.ranks.sequence is not None:
                rays = {"motion": window.camera.motion, "directions": window.camera.directions}
                fields = {name: getattr(window, name) for name in ("condition", "history", "frame_ids", "text")}
                tell(self.ranks.denoising, 0, {**fields, **rays, "schedule": schedule, "noise": generator.get_state()})
            return super().denoise(window, schedule, generator)

    def close(self) -> None:
        """End the helpers' loops; nothing to do where they are gone."""
        for group in (self.ranks.denoising, self.ranks.decoding):
            with others_present("closing"):
                tell(group, 0, {})


def share_experts(world: WorldModel, ranks: ServingRanks) -> None:
    """Let the experts share each chunk's tokens with the other ranks."""
    for _, expert in world.experts.named_experts():
        expert.share_sequence(ranks.sequence)


class RemoteCodec:
    """Encodes here and decodes on the last rank. A cache stays there; what the caller holds is its number."""

    def __init__(self, codec: Any, ranks: ServingRanks) -> None:
        self.codec, self.ranks, self._made, self._forgotten = codec, ranks, 0, list[int]()

    def encode(self, video: Tensor) -> Tensor:
        return self.codec.encode(video)  # type: ignore[no-any-return]

    def decode_chunk(self, latents: Tensor, cache: "RemoteCache | None") -> tuple[Tensor, "RemoteCache"]:
        """As `StreamingCodec.decode_chunk`, but the video comes as uint8."""
        self._made += 1
        following = RemoteCache(self._made)
        weakref.finalize(following, self._forgotten.append, self._made)
        forget = [self._forgotten.pop() for _ in range(len(self._forgotten))]
        numbers = torch.tensor([0 if cache is None else cache.number, following.number, *forget])
        with others_present("decoding"):
            tell(self.ranks.decoding, 0, {"latents": latents, "numbers": numbers})
            return hear(self.ranks.decoding, self.ranks.decoder)["video"].to(latents.device), following


class RemoteCache:
    """The number of a decoder's cache; it is freed there when this is freed here."""

    def __init__(self, number: int) -> None:
        self.number = number


@torch.inference_mode()
def help_denoising(world: WorldModel, ranks: ServingRanks) -> Iterator[Tensor]:
    """A helper's work: chunk after chunk with the others, until rank 0 says that it is over. Yields the latents of each window."""
    share_experts(world, ranks)
    with others_present("rank 0"):
        while told := hear(ranks.denoising, 0, ranks.device):
            rays = Rays(told["motion"], told["directions"])
            window = Window(told["condition"], told["history"], rays, told["frame_ids"], told["text"])
            noise = torch.Generator()
            noise.set_state(told["noise"].cpu())
            yield world.denoise(window, told["schedule"], noise)


@torch.inference_mode()
def help_decoding(codec: Any, ranks: ServingRanks) -> None:
    """The last rank's work: chunks of all sessions as they come, until rank 0 says that it is over."""
    caches = dict[int, Any]()
    with others_present("rank 0"):
        while told := hear(ranks.decoding, 0, ranks.device):
            before, after, *forgotten = told["numbers"].tolist()
            video, caches[after] = codec.decode_chunk(told["latents"], caches[before] if before else None)
            for number in forgotten:
                del caches[number]
            tell(ranks.decoding, ranks.decoder, {"video": to_bytes(video)})


def tell(group: Group, source: int, tensors: dict[str, Tensor]) -> None:
    """Send tensors by name to the ranks of a group; none at all means that it is over."""
    data = save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}) if tensors else b""
    dist.broadcast(torch.tensor([len(data)]), source, group=group)
    if data:
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), source, group=group)


def hear(group: Group, source: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """What `tell` sent."""
    size = torch.zeros(1, dtype=torch.long)
    dist.broadcast(size, source, group=group)
    if not size:
        return {}
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, source, group=group)
    return {key: value.to(device) for key, value in load(data.numpy().tobytes()).items()}


@contextmanager
def others_present(what: str) -> Iterator[None]:
    """Raises InputError, one line, where another rank is gone or does not answer in time."""
    try:
        yield
    except RuntimeError as error:
        found = str(error).splitlines()[0]
        raise InputError("ranks", what, found, "all ranks at work", "start the ranks and the session again") from error
