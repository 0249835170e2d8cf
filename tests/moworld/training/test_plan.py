"""The plan's arithmetic against PyTorch's operation counter, the bytes autograd keeps, and the measured peak of small runs."""

import ctypes
import gc
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moworld.kernels.dispatch import named
from moworld.model.latent_cameras import LatentCameras
from moworld.model.settings import Device, ModelSettings
from moworld.model.text import TextSettings
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.model.world import WorldConfig, WorldModel
from moworld.training.curriculum import train_stage
from moworld.training.parallel import Ranks
from moworld.training.plan import forward_flops, kept_bytes, parameter_counts, plan_stage
from moworld.training.settings import ParallelSettings, Stage
from moworld.training.trainer import Run
from tests.moworld.ranks import context
from tests.moworld.worlds import counted_saved_bytes

TEXT, DEVICE = (
    16,
    Device(memory_bytes=1e9, flops=1e12, utilization=0.5, link_bytes_per_second=1e10, network_bytes_per_second=1e9, price_per_hour=2),
)
PATCH_1, NARROW = {"patch_size": (1, 1, 1)}, {"num_attention_heads": 2}  # the adapter takes ray maps, or their factors


def settings(**changes) -> ModelSettings:
    sizes = {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 48, "ffn_dim": 768, "text_dim": 384, "camera_gate": 0.2}
    return ModelSettings(**{**sizes, **changes})


def stage_of(frames: int, batch: int = 1, average: float = 0.0, **parallel) -> Stage:
    return Stage(frames=frames, batch=batch, steps=2, optimizer={"lr": 1e-4, "average": average}, parallel=parallel)


def inputs(model: ModelSettings, frames: int, dtype: torch.dtype = torch.float32) -> dict:
    latents, text = (torch.randn(shape, dtype=dtype) for shape in ((1, 36, frames, 8, 12), (1, TEXT, model.text_dim)))
    cameras = LatentCameras(torch.tensor([0.5, 1.0, 0.5, 0.5]).expand(1, frames, 4, 4), torch.eye(4).expand(1, frames, 4, 4, 4))
    given = {"hidden_states": latents, "timestep": torch.tensor([500.0]), "encoder_hidden_states": text}
    return {**given, "camera": cameras.rays(64, 96).to(dtype)}


@pytest.mark.parametrize("changes", [{}, {"num_layers": 2, "ffn_dim": 256}, {"num_attention_heads": 16}, PATCH_1, {**PATCH_1, **NARROW}])
@pytest.mark.parametrize("frames", [3, 20])
def test_flops_equal_pytorchs_count(changes, frames):
    model = settings(**changes)
    transformer = MoWorldTransformer3DModel(**model.transformer())
    # the counter covers neither the CPU's fused attention nor oneDNN's products
    with named(attention="sdpa"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(**inputs(model, frames))
    tokens = frames * model.tokens_per_frame(64, 96)
    assert forward_flops(model, frames, tokens, TEXT) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("changes", "frames"),
    [({"num_layers": 1}, 20), ({"num_layers": 3, "ffn_dim": 1536}, 20), ({"num_attention_heads": 16}, 20), ({**PATCH_1, **NARROW}, 20), (PATCH_1, 8)],
)
def test_kept_bytes_equal_those_of_autograd(changes, frames, dtype, history):
    model = settings(**changes)
    transformer = MoWorldTransformer3DModel(**model.transformer()).to(getattr(torch, dtype))
    given = inputs(model, frames, getattr(torch, dtype))
    given["timestep"] = given["timestep"].expand(1, frames) if history else given["timestep"]
    with counted_saved_bytes(transformer.parameters()) as seen:
        kept = transformer(**given, return_dict=False)[0]
    assert kept.requires_grad
    outside, block = kept_bytes(model, frames * model.tokens_per_frame(64, 96), TEXT, ParallelSettings(dtype=dtype), history)
    assert outside + model.num_layers * block == pytest.approx(sum(seen.values()), rel=0.03)


def status(key: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))


def measure_peak(path: str, model: dict, stage: dict, batch: int) -> None:
    """Writes the peak bytes of two training steps above the memory of this process after training a tiny model."""
    torch.set_num_threads(1)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 65536)  # M_MMAP_THRESHOLD: freed memory is returned at once, so the peak counts live tensors

    def train(model: ModelSettings, stage: Stage) -> None:
        config = WorldConfig(model=model, text=TextSettings(kind="minilm", length=TEXT), height=64, width=96, fps=16.0, experts=("high",))
        n, t = stage.num_latents, stage.frames
        cameras = {
            "c2w": torch.eye(4).expand(stage.batch, t, 4, 4),
            "intrinsics": torch.tensor([0.5, 1.0, 0.5, 0.5]).expand(stage.batch, t, 4),
        }
        batch = {"latents": torch.randn(stage.batch, 16, n, 8, 12), "text": torch.randn(stage.batch, TEXT, 384), **cameras}
        batch["first_latent"] = torch.zeros(stage.batch, dtype=torch.long)
        train_stage(WorldModel.create(config, 0), stage, Run(lambda start: iter(lambda: batch, None), 0, Ranks(stage.parallel)))

    chosen = Stage(**stage)
    train(settings(num_layers=1, ffn_dim=64), chosen.model_copy(update={"frames": 13, "batch": 1}))
    gc.collect()
    libc.malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    train(ModelSettings(**model), chosen)
    Path(path).write_text(json.dumps(status("VmHWM") - before))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "frames", "batch", "average", "again"),
    [
        ({}, 97, 2, 0.0, False),
        ({}, 97, 2, 0.0, True),
        ({"num_layers": 8}, 49, 4, 0.0, True),
        ({"num_attention_heads": 16}, 49, 2, 0.0, True),
        (PATCH_1, 25, 2, 0.0, True),
        ({}, 49, 2, 0.9, False),
        ({"num_layers": 12}, 25, 1, 0.0, False),
    ],
)
def test_the_planned_peak_is_within_15_percent_of_the_measured(tmp_path, changes, frames, batch, average, again):
    model, stage = settings(**changes), stage_of(frames, batch, average, checkpoint_activations=again)
    arguments = (str(tmp_path / "peak"), model.model_dump(), stage.model_dump(), batch)
    process = context().Process(target=measure_peak, args=arguments)
    process.start()
    process.join()
    measured = json.loads((tmp_path / "peak").read_text())
    planned = plan_stage(model, stage, 64, 96, TEXT, 1, DEVICE).total_bytes
    assert planned == pytest.approx(measured, rel=0.15)


def test_parameter_counts_equal_the_models():
    model = settings()
    transformer = MoWorldTransformer3DModel(**model.transformer())
    assert parameter_counts(model) == tuple(sum(p.numel() for p in m.parameters()) for m in (transformer, transformer.blocks[0]))


def test_more_devices_divide_state_and_tokens_and_add_communication():
    model = settings()
    alone = plan_stage(model, stage_of(193, 4), 64, 96, TEXT, 1, DEVICE)
    shared = plan_stage(model, stage_of(193, 4, ulysses=4), 64, 96, TEXT, 4, DEVICE)
    spread = plan_stage(model, stage_of(193, 4, ulysses=4, ring=4), 64, 96, TEXT, 16, DEVICE)
    assert shared.state_bytes == pytest.approx(alone.state_bytes / 4) and shared.tokens_per_device == alone.tokens / 4
    assert shared.flops == alone.flops and shared.compute_seconds == pytest.approx(alone.compute_seconds / 4)
    assert alone.communication_seconds == 0 < shared.communication_seconds < spread.communication_seconds  # the last one spans two nodes
    again = plan_stage(model, stage_of(193, 4, checkpoint_activations=True), 64, 96, TEXT, 1, DEVICE)
    assert again.total_bytes < alone.total_bytes and again.flops == pytest.approx(alone.flops * 4 / 3)
    assert alone.days == pytest.approx(2 * alone.step_seconds / 86400) and alone.cost == pytest.approx(alone.days * 48)
    assert alone.fits and not plan_stage(model, stage_of(193, 4), 64, 96, TEXT, 1, DEVICE.model_copy(update={"memory_bytes": 1e8})).fits
