"""Ranks: which samples and which tokens each one works on, and how its weights are sharded. One rank is the same code without any of it.

A world of ranks is a mesh (data, ring, ulysses). Ranks along `data` take different samples of the global batch; those along `ring` and
`ulysses` share the tokens of the same samples (see `moworld.model.sequence`). FSDP2 shards weights, gradients and optimizer state over all.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from moworld.errors import InputError
from moworld.model.rollout import NoiseShare
from moworld.model.sequence import SequenceMesh, rank_device
from moworld.settings import Settings


class ParallelSettings(Settings):
    """Ranks that share a sample: `ulysses` (over heads) times `ring` (over tokens). Samples are shared out over what remains.

    dtype:                  of weights and activations in forward and backward; the weights that are updated, their gradients' sum and the
                            optimizer state stay float32
    checkpoint_activations: keep a block's input alone and compute the block again in the backward pass
    """

    ulysses: int = 1
    ring: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class Ranks:
    """This rank's place. `mesh` is None where nothing is sharded, `sequence` where a rank holds all tokens of its samples."""

    settings: ParallelSettings = field(default_factory=ParallelSettings)
    rank: int = 0
    world: int = 1
    data_rank: int = 0
    data_size: int = 1
    mesh: Any = None
    sequence: SequenceMesh | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def of_global(self, drawn: Tensor, dim: int = 0) -> Tensor:
        """This rank's samples of numbers that were drawn for the global batch: noise does not depend on the number of ranks."""
        return drawn.chunk(self.data_size, dim)[self.data_rank]

    def noise(self, generator: torch.Generator) -> NoiseShare:
        """A source of noise for this rank's samples, drawn for the global batch."""
        return NoiseShare(generator, self.data_rank, self.data_size)

    def place(self, transformer: Any) -> None:
        """Put an expert on this rank's device, share its tokens and shard its weights, in place. A second time changes nothing."""
        transformer.to(self.device)
        transformer.share_sequence(self.sequence)
        if self.settings.checkpoint_activations:
            transformer.enable_gradient_checkpointing()
        if self.mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        if isinstance(transformer, FSDPModule):  # an earlier stage of the same step has placed it
            return
        low = torch.bfloat16 if self.settings.dtype == "bfloat16" else None
        precision = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in transformer.blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=precision)
        fully_shard(transformer, mesh=self.mesh, mp_policy=precision)
        for method in ("prepare", "denoise"):  # the parts of forward that a rollout calls by themselves
            register_fsdp_forward_method(transformer, method)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all ranks."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world


def join_ranks(settings: ParallelSettings) -> Ranks:
    """This process's place among the ranks that torchrun started; a world of one where none were.

    Raises InputError where the number of ranks is no multiple of those that share a sample.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    share = settings.ulysses * settings.ring
    if settings.ulysses < 1 or settings.ring < 1 or world % share:
        found = f"ulysses {settings.ulysses} times ring {settings.ring}"
        raise InputError(
            "parallel", "", f"{found} for {world} ranks", "a product that divides the number of ranks", "change either, or the ranks"
        )
    device, backend = rank_device()
    if world == 1 and settings.dtype == "float32":
        return Ranks(settings, device=device)
    if not dist.is_initialized():
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if world == 1 else {}
        dist.init_process_group(backend, **alone)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (world // share, settings.ring, settings.ulysses), mesh_dim_names=("data", "ring", "ulysses"))
    sequence = None
    if share > 1:
        group = mesh["ring", "ulysses"]._flatten("sequence").get_group()
        sequence = SequenceMesh(
            mesh.get_group("ulysses"), mesh.get_group("ring"), group, settings.ulysses, settings.ring, dist.get_rank(group)
        )
    flat = mesh._flatten("shard")
    return Ranks(settings, rank, world, mesh.get_local_rank("data"), world // share, flat, sequence, device)


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this rank holds, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
