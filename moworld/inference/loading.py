"""A model folder as a world that serves: resident, within a memory budget, converted to INT8 while it is loaded, or over ranks."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.quantization import load_quantized
from moworld.model.world import WorldModel

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@contextmanager
def serving_world(
    folder: Pathlike, memory: str = "", quantize: bool = False, chunk_latents: int | None = None
) -> Iterator[WorldModel | None]:
    """A world for sessions, as the caller asks for it; `None` on ranks that torchrun started to help, once their work is over.

    memory:        a budget such as "2GB", within which modules are loaded on demand (see `residency`); empty keeps all in memory
    quantize:      convert a model in full precision to INT8 while it is loaded
    chunk_latents: of the sessions, where they are shorter than the model's
    Raises InputError for a folder, a budget or ranks that do not do.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if memory and (ranks > 1 or quantize):
        found = "--memory with " + ("ranks" if ranks > 1 else "--quantize")
        raise InputError("memory", "", found, "one of the two", "load a model that is quantized already, on one device")
    if ranks > 1:
        yield from _over_ranks(folder, ranks, quantize)
    elif memory:
        from moworld.inference.residency import load_on_demand

        yield load_on_demand(folder, parse_bytes(memory), chunk_latents)
    else:
        yield load_quantized(folder) if quantize else WorldModel.load(folder)


def parse_bytes(text: str) -> int:
    """Bytes from "2GB", "800 MB", "1.5GiB" or a plain number. Raises InputError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", text.upper())
    if found is None or found[2] not in UNITS:
        raise InputError("memory", "", f"'{text}'", "bytes with a unit", "write 800MB or 2GB")
    return int(float(found[1]) * UNITS[found[2]])


def _over_ranks(folder: Pathlike, count: int, quantize: bool) -> Iterator[WorldModel | None]:
    """The last rank holds the codec alone, the others both experts; rank 0's caller gets the world."""
    import torch.distributed as dist

    from moworld.inference.ranks import SharedWorld, help_decoding, help_denoising, join_serving_ranks
    from moworld.model.wan_vae import load_codec
    from moworld.model.world import read_config

    config, rank = read_config(folder), int(os.environ["RANK"])
    ranks = join_serving_ranks(count, rank, config.model.num_attention_heads)
    if rank == ranks.decoder:
        help_decoding(load_codec(f"{folder}/vae").to(ranks.device), ranks)
    else:
        world = load_quantized(folder) if quantize else WorldModel.load(folder)
        world.experts.to(ranks.device)
        if rank == 0:
            shared = SharedWorld(world, ranks)
            try:
                yield shared
            finally:
                shared.close()
            dist.destroy_process_group()
            return
        for _ in help_denoising(world, ranks):
            pass
    dist.destroy_process_group()
    yield None
