"""OpenVINO as the denoiser of a world on x86-64 CPUs: a chunk is one compiled function, chosen where it is faster than PyTorch here.

The compiler's input is kept in a cache directory: reading it takes a tenth of the time of tracing. Compiled blobs are not kept: importing
one gives wrong numbers with OpenVINO 2026.4.
"""

import hashlib
import json
import logging
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.files import atomic_folder, read_json_object, write_json
from moworld.inference import chunk_function
from moworld.inference.chunk_function import INPUTS, ChunkFunction, num_noises
from moworld.kernels.chips import cpu_flags
from moworld.kernels.dispatch import VARIABLE, overrides
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import Noise, Rollout, seeded_noise
from moworld.model.window import Window
from moworld.model.world import WorldModel

Backend = Literal["auto", "torch", "openvino"]
Precision = Literal["bf16", "f32"]
Report = Callable[[str], None]
LARGEST_BYTES = 2 * 10**9  # of the experts in float32: the function's constants are a copy of them, and compiling takes another
AGREEMENT_DB = 30.0  # the least PSNR between the two backends' latents: INT8 and bfloat16 give 54 and more, a broken compilation less than 30
REPEATS = 3
log = logging.getLogger(__name__)


def why_not(world: WorldModel) -> str:
    """Returns why OpenVINO cannot serve this world on this machine, "" if it can."""
    if world.device.type != "cpu":
        return f"the weights are on {world.device}"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"not measured on {platform.machine()}"
    if find_spec("openvino") is None:
        return "package openvino is not installed"
    if overrides():
        return f"{VARIABLE} names kernels of PyTorch"
    size = 4 * sum(tensor.numel() for tensor in world.experts.state_dict().values())
    return f"experts of {size / 1e9:.1f} GB in float32, more than {LARGEST_BYTES / 1e9:.0f} GB" if size > LARGEST_BYTES else ""


class OpenVinoDenoiser:
    """`denoise` of a world by functions that are compiled for each shape of window on its first use. Thread-safe.

    cache:     directory for the compiler's input; None keeps nothing
    precision: of products and activations, a hint: CPUs without bfloat16 use float32
    report:    called with one line before something that takes seconds
    """

    def __init__(self, world: WorldModel, cache: Path | None = None, precision: Precision = "bf16", report: Report = log.info) -> None:
        self.world, self.cache, self.precision, self.report = world, cache, precision, report
        self.by_torch = world.denoiser.denoise
        self._requests, self._lock = dict[str, Any](), threading.Lock()

    @torch.inference_mode()
    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        """Returns the clean latents (B, C, F, h, w) of a chunk's window, by the world's own denoiser for B > 1 and zooms."""
        if len(window.history) > 1 or window.camera.num_lenses != 1:
            return self.by_torch(window, schedule, generator)
        sampler = self.world.config.model.sampler
        noise = [seeded_noise(window.shape, generator, window.condition) for _ in range(num_noises(len(schedule), sampler))]
        cosines, sines = self.world.experts.high.rope(window.frame_ids, *window.condition.shape[3:])
        values = (torch.stack(noise), window.condition, window.history, window.camera.motion, cosines[..., 0::2], sines[..., 1::2], window.text)
        inputs = {name: value.float().contiguous() for name, value in zip(INPUTS, values, strict=True)}
        with self._lock:
            request = self._request(window, schedule, inputs)
            result = request.infer({name: value.numpy() for name, value in inputs.items()}, share_inputs=True)
            return torch.from_numpy(result[0]).to(window.condition)

    def _request(self, window: Window, schedule: Tensor, inputs: dict[str, Tensor]) -> Any:
        shapes = {name: list(value.shape) for name, value in inputs.items()}
        key = _hash(window.camera.directions, schedule, shapes)
        if key not in self._requests:
            openvino = _import()
            settings = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
            compiled = openvino.Core().compile_model(self._model(openvino, key, window, schedule, inputs), "CPU", settings)
            self._requests[key] = compiled.create_infer_request()
        return self._requests[key]

    def _model(self, openvino: Any, key: str, window: Window, schedule: Tensor, inputs: dict[str, Tensor]) -> Any:
        """Returns the compiler's input, from the cache directory if it is there."""
        folder = None if self.cache is None else self.cache / content_hash(self.world) / key
        if folder is not None and (folder / "chunk.xml").is_file():
            try:
                return openvino.Core().read_model(folder / "chunk.xml")
            except RuntimeError as error:
                log.warning("%s: unreadable, made again: %s", folder, str(error).splitlines()[0])
        self.report("compiling the model for this machine (first start only)")
        sampler = self.world.config.model.sampler
        with torch.inference_mode(False), torch.no_grad():
            example = tuple(value.clone() for value in inputs.values())
            function = ChunkFunction(self.world.experts, schedule, sampler, window).eval()
            traced = torch.jit.trace(function, example, check_trace=False)
            model = openvino.convert_model(traced, example_input=example, input=[tuple(value.shape) for value in example])
        for port, name in zip(model.inputs, INPUTS, strict=True):
            port.get_tensor().set_names({name})
        if folder is not None:
            with atomic_folder(folder) as target:
                openvino.save_model(model, target / "chunk.xml", compress_to_fp16=False)
        return model


def choose_denoiser(
    world: WorldModel, backend: Backend = "auto", chunk_latents: int | None = None, cache: Path | None = None, report: Report = log.info
) -> OpenVinoDenoiser | None:
    """Returns the denoiser by OpenVINO, compiled; None if PyTorch is to denoise.

    backend:       `auto` times a chunk on both, once for each model, machine and chunk length, and takes the faster one
    chunk_latents: chunk length of the sessions; None is the model's
    cache:         directory that keeps the choice and the compiler's input; None keeps nothing
    Raises InputError if `openvino` is wanted but cannot serve the world.
    """
    reason = why_not(world) if backend != "torch" else ""
    if backend == "openvino" and reason:
        raise InputError("backend", "openvino", reason, "a machine and a model that OpenVINO serves", "use --backend torch")
    if backend == "torch" or reason:
        log.debug("denoising by torch: %s", reason or "as chosen")
        return None
    file = None if cache is None else cache / content_hash(world) / f"choice-{_machine_hash(chunk_latents)}.json"
    kept = read_json_object(file) if file is not None and file.is_file() else None
    if backend == "auto" and kept is not None and kept.get("backend") == "torch":
        return None
    denoiser, window = OpenVinoDenoiser(world, cache, report=report), example_window(world, chunk_latents)
    if kept is None or backend == "openvino":
        kept = measure_backends(denoiser, window, world.config.schedule)
        if not kept["agreement_db"] >= AGREEMENT_DB:  # NaN included
            log.warning("OpenVINO's latents differ from PyTorch's (%.1f dB): PyTorch denoises", kept["agreement_db"])
        times = ", ".join(f"{name} {1000 * value:.0f} ms a chunk" for name, value in kept["seconds"].items())
        report(f"denoising by {kept['backend'] if backend == 'auto' else backend}: {times}")
        if file is not None:
            write_json(file, kept)
    else:
        denoiser.denoise(window, world.config.schedule, torch.Generator())  # compiles it before a session opens
    if kept["backend"] == "torch" and backend == "auto":
        return None
    return denoiser


def measure_backends(denoiser: OpenVinoDenoiser, window: Window, schedule: Tensor) -> dict[str, Any]:
    """Returns the seconds of a chunk on both backends (the least of some alternating runs), their agreement and the better `backend`."""
    runs = {"torch": denoiser.by_torch, "openvino": denoiser.denoise}
    seconds, latents = dict.fromkeys(runs, math.inf), dict[str, Tensor]()
    for turn in range(REPEATS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            with torch.inference_mode():
                latents[name] = run(window, schedule, torch.Generator().manual_seed(0))
            if turn:  # the first one compiles and fills caches
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    agreement = psnr_of_latents(latents["openvino"], latents["torch"])
    faster = agreement >= AGREEMENT_DB and seconds["openvino"] < seconds["torch"]
    return {
        "backend": "openvino" if faster else "torch",
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "agreement_db": round(agreement, 1),
        "chunk_latents": window.shape[2] - 1,
    }


def psnr_of_latents(found: Tensor, exact: Tensor) -> float:
    """Returns the PSNR in dB for a peak of the range of `exact`; NaN if `found` is not finite."""
    peak, error = (exact.max() - exact.min()).square(), (found - exact).square().mean()
    return (10 * torch.log10(peak / error)).item()


def example_window(world: WorldModel, chunk_latents: int | None = None) -> Window:
    """Returns a window like those of a session's chunks, of noise and a resting camera."""
    config, generator = world.config, torch.Generator().manual_seed(0)
    frames = chunk_latents or config.model.chunk_latents
    latent = torch.randn(1, config.model.latent_channels, 1, config.height // 8, config.width // 8, generator=generator)
    text, intrinsics = torch.zeros(1, config.text.length, config.model.text_dim), torch.tensor([config.intrinsics])
    rollout = Rollout(
        world.experts, latent, text, intrinsics,
        schedule=config.schedule, policy=config.model.history, chunk_latents=frames, generator=generator,
    )  # fmt: skip
    c2w = torch.eye(4).expand(1, 4 * frames, 4, 4)
    return rollout.window(LatentCameras.from_chunk(intrinsics[:, None].expand(-1, 4 * frames, -1), c2w))


def content_hash(world: WorldModel) -> str:
    """Returns a hash of the experts, their configuration, and all else that the compiler's input is made from."""
    state = world.experts.state_dict()
    parts = [part for name in sorted(state) for part in (name, state[name])]
    source = Path(chunk_function.__file__).read_bytes().hex()
    return _hash(world.config.model_dump(mode="json"), source, _import().__version__, *parts)


def _machine_hash(chunk_latents: int | None) -> str:
    return _hash(sorted(cpu_flags()), platform.processor(), torch.__version__, os.cpu_count(), chunk_latents)


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(json.dumps(part).encode())
    return digest.hexdigest()[:16]


def _import() -> Any:
    """Imports OpenVINO without its telemetry, which otherwise reports imports and conversions to its makers unless it is opted out of."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")
