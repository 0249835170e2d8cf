"""OpenVINO as denoiser: parity with PyTorch's path, the cache, the choice between both, and machines without the package."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from moworld.camera.controls import controls_to_c2w
from moworld.errors import InputError
from moworld.inference.loading import serving_world
from moworld.inference.openvino import OpenVinoDenoiser, choose_denoiser, example_window, measure_backends, psnr_of_latents
from moworld.inference.pictures import model_pictures
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.inference.session import WorldSession
from moworld.model.experts import Experts
from moworld.model.int8 import Int8Linear
from moworld.model.rollout import Rollout
from moworld.model.world import WorldModel
from tests.moworld.inference.worlds import picture, served_world
from tests.moworld.worlds import tiny_world

pytest.importorskip("openvino", reason="x86-64 only")
SHIPPED = Path(__file__).parents[3] / "models" / "pocket-long"
STEPS = {"student_steps": 2}  # one of each expert
VARIANTS = [
    {**STEPS, "patch_size": (1, 1, 1), "history_attention": "block_causal", "sampler": "euler"},
    {**STEPS, "patch_size": (1, 1, 1), "history_attention": "joint"},
    {"patch_size": (1, 2, 2), "history_attention": "block_causal", "num_layers": 2},
    {**STEPS, "patch_size": (1, 2, 2), "history_attention": "joint", "num_layers": 2, "sampler": "euler"},
]


def rollout_of(world, denoise, seed=0):
    config, generator = world.config, torch.Generator().manual_seed(seed)
    latent = torch.randn(1, config.model.latent_channels, 1, config.height // 8, config.width // 8, generator=torch.Generator().manual_seed(7))
    text = torch.randn(1, config.text.length, config.model.text_dim, generator=torch.Generator().manual_seed(8))
    return Rollout(
        world.experts, latent, text, torch.tensor([config.intrinsics]),
        schedule=config.schedule, policy=config.model.history, chunk_latents=config.model.chunk_latents, generator=generator, denoise=denoise,
    )  # fmt: skip


def chunks(world, denoise, count):
    """Returns the chunks of a rollout that walks and turns."""
    frames, rollout = 4 * world.config.model.chunk_latents, rollout_of(world, denoise)
    c2w = torch.as_tensor(controls_to_c2w("wl*400"), dtype=torch.float32)[1:]
    with torch.inference_mode():
        return [rollout.next_chunk(c2w[None, index * frames : (index + 1) * frames]) for index in range(count)]


def dequantized(world):
    """Returns the world with plain linears in place of INT8 ones."""
    experts = []
    for _, expert in world.experts.named_experts():
        made = copy.deepcopy(expert)
        for name, layer in list(made.named_modules()):
            if isinstance(layer, Int8Linear):
                linear = torch.nn.Linear(layer.in_features, layer.out_features)
                linear.weight.data, linear.bias.data = layer.weight.float() * layer.weight_scale[:, None], layer.bias.float()
                made.set_submodule(name, linear)
        experts.append(made)
    config = world.config.model_copy(update={"quantization": "none"})
    return WorldModel(config, Experts(*experts, world.config.model.boundary).eval(), world.codec_folder)


@pytest.mark.parametrize("model", VARIANTS, ids=lambda model: f"{model['history_attention']}-patch{model['patch_size'][1]}")
def test_float32_equals_torch_over_several_chunks(model):
    world = tiny_world(**model)
    world.experts.eval()
    for block in (block for _, expert in world.experts.named_experts() for block in expert.blocks):  # as after training: nothing is 0 or 1
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    expected, found = chunks(world, world.denoiser.denoise, 3), chunks(world, OpenVinoDenoiser(world, precision="f32").denoise, 3)
    for exact, chunk in zip(expected, found, strict=True):
        assert exact.std() > 0.1
        torch.testing.assert_close(chunk, exact, rtol=1e-4, atol=1e-4)


def test_int8_weights_are_dequantized_exactly():
    world = tiny_world(num_layers=2, **STEPS)
    quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
    plain = dequantized(world)
    (expected,), (found,) = chunks(plain, plain.denoiser.denoise, 1), chunks(world, OpenVinoDenoiser(world, precision="f32").denoise, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_is_near_float32_over_a_rollout_of_the_shipped_model():
    world = dequantized(WorldModel.load(SHIPPED))
    denoiser, pairs = OpenVinoDenoiser(world), []

    def both(window, schedule, generator):
        state = generator.get_state()
        exact = world.denoiser.denoise(window, schedule, generator)
        found = denoiser.denoise(window, schedule, torch.Generator().set_state(state))
        pairs.append((found, exact))
        return exact

    session = WorldSession(world)
    session.open(model_pictures(SHIPPED)[0], seed=1)
    session.rollout.denoise = both
    for keys in ("w*12", "l*12", "wj*12"):
        session.denoise(keys)
    assert psnr_of_latents(*(torch.cat(latents) for latents in zip(*pairs, strict=True))) >= 55


def test_frames_are_a_function_of_the_seed(tmp_path):
    world = served_world(tmp_path / "codec", sampler="stochastic", **STEPS)
    world = WorldModel(world.config, world.experts, world.codec_folder, denoiser=OpenVinoDenoiser(world))
    walks = []
    for seed in (3, 3, 4):
        session = WorldSession(world)
        session.open(picture(), seed=seed)
        walks.append([session.step("w*12"), session.step("l*12")])
    for again, other, first in zip(walks[1], walks[2], walks[0], strict=True):
        assert (again == first).all() and (other != first).any()


def test_a_batch_is_denoised_by_torch():
    world = tiny_world(**STEPS)
    window = example_window(world)
    both = type(window)(
        *(torch.cat([value, value]) for value in (window.condition, window.history)), window.camera, window.frame_ids, torch.cat([window.text] * 2)
    )  # fmt: skip
    expected = world.denoiser.denoise(both, world.config.schedule, torch.Generator().manual_seed(1))
    found = OpenVinoDenoiser(world).denoise(both, world.config.schedule, torch.Generator().manual_seed(1))
    assert torch.equal(found, expected)


def test_the_compilers_input_is_kept_for_equal_weights(tmp_path):
    lines: list[str] = []

    def latents(world):
        denoiser = OpenVinoDenoiser(world, tmp_path, precision="f32", report=lines.append)
        return denoiser.denoise(example_window(world), world.config.schedule, torch.Generator().manual_seed(0))

    first, again = latents(tiny_world(0, **STEPS)), latents(tiny_world(0, **STEPS))
    assert torch.equal(first, again) and len(lines) == 1
    other = latents(tiny_world(1, **STEPS))
    assert not torch.allclose(first, other) and len(lines) == 2
    for weights in tmp_path.rglob("chunk.xml"):
        weights.write_text("damaged")
    assert torch.equal(latents(tiny_world(0, **STEPS)), first) and len(lines) == 3


def test_the_choice_is_kept(tmp_path):
    world = tiny_world(**STEPS)
    measured = choose_denoiser(world, "auto", cache=tmp_path)
    (file,) = tmp_path.rglob("choice-*.json")
    for backend in ("torch", "openvino"):
        file.write_text(file.read_text().replace('"backend": "torch"', f'"backend": "{backend}"').replace('"backend": "openvino"', f'"backend": "{backend}"'))
        assert (choose_denoiser(world, "auto", cache=tmp_path) is None) == (backend == "torch")
    assert measured is None or isinstance(measured, OpenVinoDenoiser)
    assert choose_denoiser(world, "torch", cache=tmp_path) is None
    assert choose_denoiser(world, "openvino", cache=tmp_path) is not None


def test_a_compiled_function_that_disagrees_is_not_chosen():
    denoiser, other = (OpenVinoDenoiser(tiny_world(seed, **STEPS), precision="f32") for seed in (0, 1))
    window, schedule = example_window(denoiser.world), denoiser.world.config.schedule
    assert measure_backends(denoiser, window, schedule)["agreement_db"] > 80
    denoiser.by_torch = other.by_torch
    chosen = measure_backends(denoiser, window, schedule)
    assert chosen["backend"] == "torch" and chosen["agreement_db"] < 30


def test_named_kernels_of_pytorch_are_used(monkeypatch):
    monkeypatch.setenv("MOWORLD_KERNELS", "attention=reference")
    assert choose_denoiser(tiny_world(**STEPS), "auto") is None
    with pytest.raises(InputError, match="MOWORLD_KERNELS names kernels of PyTorch"):
        choose_denoiser(tiny_world(**STEPS), "openvino")


def test_a_served_world_denoises_by_the_chosen_backend(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    served_world(tmp_path / "codec", **STEPS).save(tmp_path / "model")
    frames = {}
    for backend in ("torch", "openvino"):
        with serving_world(tmp_path / "model", backend=backend, cache=tmp_path / "cache") as world:
            session = WorldSession(world)
            session.open(picture(), seed=3)
            frames[backend] = session.step("w*12").astype(int)
    difference = abs(frames["torch"] - frames["openvino"])
    assert 0 < difference.mean() < 2 and len(list((tmp_path / "cache").rglob("chunk.xml"))) == 1
    with pytest.raises(InputError, match="openvino with --memory"), serving_world(tmp_path / "model", "1GB", backend="openvino"):
        pass


def test_machines_without_the_package_use_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert choose_denoiser(tiny_world(**STEPS), "auto") is None
    with pytest.raises(InputError, match=r"package openvino is not installed.*use --backend torch"):
        choose_denoiser(tiny_world(**STEPS), "openvino")
