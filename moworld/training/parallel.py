"""Ranks: which samples and tokens each one processes, and how its weights are sharded. With one rank nothing is sharded.

The ranks form a mesh (data, ring, ulysses). Ranks along `data` take different samples of the global batch; ranks along `ring` and
`ulysses` share the tokens of the same samples (see `moworld.model.sequence`). FSDP2 shards weights, gradients and optimizer state over all.
"""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moworld.errors import InputError
from moworld.model.experts import Experts
from moworld.model.rollout import NoiseShare
from moworld.model.sequence import SequenceMesh, rank_device
from moworld.model.weights import allocate, cast_parameters, tensors_of
from moworld.model.world import expert_structure
from moworld.training.settings import ParallelSettings


@dataclass(frozen=True)
class Ranks:
    """Position of this rank. `mesh` is None if nothing is sharded, `sequence` is None if a rank holds all tokens of its samples."""

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

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights in forward and backward; a frozen model is stored in it."""
        return torch.bfloat16 if self.settings.dtype == "bfloat16" else torch.float32

    def of_global(self, drawn: Tensor, dim: int = 0) -> Tensor:
        """Returns this rank's samples of numbers drawn for the global batch, so that noise does not depend on the number of ranks."""
        return drawn.chunk(self.data_size, dim)[self.data_rank]

    def noise(self, generator: torch.Generator) -> NoiseShare:
        """Returns a source of noise for this rank's samples, drawn for the global batch."""
        return NoiseShare(generator, self.data_rank, self.data_size)

    def place(self, transformer: Any, on_host: bool = False) -> None:
        """Shares an expert's tokens, shards its weights and moves it to this rank's device, in place. Repeated calls change nothing.

        Parameters on the meta device are sharded first; only this rank's shards then get memory, which is uninitialised. Others move
        block by block.
        on_host: the shards stay in the host's memory; a block's come to the device when the block is computed
        Raises InputError if they cannot, because nothing is sharded.
        """
        if on_host and self.mesh is None:
            raise InputError("parallel", "", "one rank in float32", "sharded weights to keep on the host", "use bfloat16 or more ranks")
        transformer.share_sequence(self.sequence)
        if self.settings.checkpoint_activations:
            # Early stop ends a recomputation by an exception, whose traceback keeps the block's local tensors alive: 19 % of the peak.
            transformer.recompute = partial(checkpoint, use_reentrant=False, early_stop=False)
        if self.mesh is not None:
            if hasattr(transformer, "unshard"):  # placed by an earlier stage of the same step
                return
            self._shard(transformer, on_host)
        if on_host or any(tensor.device != self.device for tensor in tensors_of(transformer).values()):
            allocate(transformer, self.device, parameters="cpu" if on_host else None)

    def _shard(self, transformer: Any, on_host: bool) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        low = None if self.dtype == torch.float32 else self.dtype
        options: dict[str, Any] = {"mesh": self.mesh}
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
        if on_host:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type != "cpu")
        for block in transformer.blocks:
            fully_shard(block, **options)
        fully_shard(transformer, **options)
        for method in ("prepare", "denoise"):  # the two parts of forward, which a rollout calls separately
            register_fsdp_forward_method(transformer, method)

    def copy(self, experts: Experts, dtype: torch.dtype | None = None) -> Experts:
        """Returns a copy of experts, which are placed first; sharded ones are copied shard by shard, never whole.

        dtype: of a sharded copy's parameters; None keeps it
        """
        for _, expert in experts.named_experts():
            self.place(expert)
        if self.mesh is None:
            return copy.deepcopy(experts)
        made = [self._copy_sharded(expert, dtype) for _, expert in experts.named_experts()]
        return Experts(made[0], made[1] if len(made) > 1 else None, experts.boundary).train(experts.training)

    @torch.no_grad()
    def _copy_sharded(self, expert: Any, dtype: torch.dtype | None) -> Any:
        made = expert_structure(asdict(expert.config))
        cast_parameters(made, dtype or expert.proj_out.weight.dtype)
        self.place(made)
        own = tensors_of(expert)
        for key, tensor in tensors_of(made).items():
            local(tensor).copy_(local(own[key]))
        return made

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a scalar over all ranks."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def from_first(self, compute: Callable[[], Any]) -> Any:
        """Returns the JSON-able result of `compute`, which only the first rank calls; an InputError there is raised on all ranks."""
        if self.world == 1:
            return compute()
        answer = dict[str, Any]()
        if self.is_first:
            try:
                answer = {"value": compute()}
            except InputError as error:
                answer = {"error": [str(part) for part in error.args]}
        data = bytearray(json.dumps(answer).encode())
        size = torch.tensor([len(data)], device=self.device)
        dist.broadcast(size, 0)
        sent = torch.frombuffer(data, dtype=torch.uint8).to(self.device) if self.is_first else size.new_empty(int(size), dtype=torch.uint8)
        dist.broadcast(sent, 0)
        answer = json.loads(bytes(sent.tolist()))
        if "error" in answer:
            raise InputError(*answer["error"])
        return answer["value"]


ONE_RANK = Ranks()


def join_ranks(settings: ParallelSettings) -> Ranks:
    """Returns this process's position among the ranks that torchrun started, or the only rank if it started none.

    Raises InputError if the number of ranks is not a multiple of `ulysses` times `ring`.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    share = settings.ulysses * settings.ring
    if settings.ulysses < 1 or settings.ring < 1 or world % share:
        found = f"ulysses {settings.ulysses} times ring {settings.ring} for {world} ranks"
        raise InputError("parallel", "", found, "a product that divides the number of ranks", "change either, or the number of ranks")
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
    """Returns the part of a sharded tensor on this rank, sharing its memory; returns other tensors unchanged."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
