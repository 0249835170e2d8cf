"""Opens a model folder for serving: resident, within a memory budget, converted to INT8 while loading, or shared by torchrun's ranks."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from moworld.devices import pick_device
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.failures import memory_errors
from moworld.inference.openvino import Backend, Report, choose_denoiser, example_window
from moworld.inference.quantization import load_quantized
from moworld.inference.threads import serving_threads
from moworld.model.world import WorldModel, read_config

log = logging.getLogger(__name__)
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@contextmanager
def serving_world(
    folder: Pathlike,
    memory: str = "",
    quantize: bool = False,
    chunk_latents: int | None = None,
    device: str = "",
    backend: Backend = "torch",
    cache: Path | None = None,
    report: Report = log.info,
) -> Iterator[WorldModel | None]:
    """Yields a model for sessions; yields None on helper ranks of torchrun, after the session has ended.

    memory:        a budget such as "2GB", within which modules are loaded on demand (see `residency`); "" keeps all in memory
    quantize:      convert a full-precision model to INT8 while it is loaded
    chunk_latents: chunk length of the sessions, None for the model's; the memory plan and the compiled function depend on it
    device:        "" is this machine's accelerator, or the CPU (see `pick_device`)
    backend, cache, report: of the denoiser, see `choose_denoiser`; worlds on ranks or within a budget are denoised by PyTorch
    Raises InputError for an invalid folder, budget, device, number of ranks or combination, and if the memory does not suffice.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    load: Callable[..., WorldModel] = memory_errors("loading")(_converted if quantize else WorldModel.load)
    if memory and (ranks > 1 or quantize):
        found = "--memory with " + ("ranks" if ranks > 1 else "--quantize")
        raise InputError("memory", "", found, "one of the two", "use a quantized model on one device")
    if backend == "openvino" and (memory or ranks > 1):
        found = "openvino with " + ("--memory" if memory else "ranks")
        raise InputError("backend", "", found, "one of the two", "use --backend torch")
    if ranks > 1:
        yield from _on_ranks(folder, ranks, load, device)
    elif memory:
        from moworld.inference.residency import load_on_demand

        yield load_on_demand(folder, parse_bytes(memory), chunk_latents, pick_device(device))
    else:
        world = load(folder, device=pick_device(device))
        if backend != "torch":
            _ = world.codec  # raises what a session would raise, before seconds are spent on the denoiser
        window, by_torch = example_window(world, chunk_latents), world.denoiser
        chunk = torch.inference_mode()(lambda: by_torch.denoise(window, world.config.schedule, torch.Generator()))
        with serving_threads(chunk) if world.device.type == "cpu" else nullcontext():
            denoiser = choose_denoiser(world, backend, chunk_latents, cache, report)
            yield WorldModel(world.config, world.experts, world.codec_folder, world.device, denoiser) if denoiser else world


def _converted(folder: Pathlike, device: torch.device) -> WorldModel:
    return load_quantized(folder, device=device)[0]


def parse_bytes(text: str) -> int:
    """Returns the bytes of "2GB", "800 MB", "1.5GiB" or a plain number. Raises InputError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", text.upper())
    if match is None or match[2] not in UNITS:
        raise InputError("memory", "", f"'{text}'", "bytes with a unit", "write 800MB or 2GB")
    return int(float(match[1]) * UNITS[match[2]])


def _on_ranks(folder: Pathlike, count: int, load: Callable[..., WorldModel], device: str) -> Iterator[WorldModel | None]:
    """Yields the model on rank 0 and None on helpers. The last rank holds the codec only, the others hold both experts."""
    import torch.distributed as dist

    from moworld.inference.ranks import end_helpers, help_decoding, help_denoising, join_serving_ranks, share_world
    from moworld.model.wan_vae import load_codec

    ranks = join_serving_ranks(count, int(os.environ["RANK"]), read_config(folder).model.num_attention_heads, device=device)
    if ranks.rank == ranks.decoder:
        help_decoding(load_codec(f"{folder}/vae").to(ranks.device), ranks)
    else:
        world = load(folder, device=ranks.device)
        if ranks.rank == 0:
            try:
                yield share_world(world, ranks)
            finally:
                end_helpers(ranks)
        else:
            for _ in help_denoising(world, ranks):
                pass
    dist.destroy_process_group()
    if ranks.rank:
        yield None
