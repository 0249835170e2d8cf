"""Diffusers' own Wan image-to-video pipeline with our transformers, against the same pipeline with Diffusers' transformers."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanTransformer3DModel

from moworld.errors import InputError
from moworld.model.pipeline import PipelineTransformer
from moworld.model.world import WorldModel
from tests.moworld.worlds import tiny_world

SIZES = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 8, "freq_dim": 32, "in_channels": 36}
Transformer = WanTransformer3DModel | PipelineTransformer


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    """Wan2.2's autoencoder with 4 instead of 96 channels and random weights."""
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1).eval()


def ours(seed: int) -> PipelineTransformer:
    torch.manual_seed(seed)
    return PipelineTransformer(**SIZES).eval()


def of(world: WorldModel) -> list[PipelineTransformer]:
    return [PipelineTransformer.of(expert.eval()) for _, expert in world.experts.named_experts()]


def theirs(expert: PipelineTransformer) -> WanTransformer3DModel:
    """Returns Diffusers' own transformer with the weights of `expert`, without the camera adapter."""
    transformer = WanTransformer3DModel(**SIZES).eval()
    weights = {key: value for key, value in expert.state_dict().items() if not key.startswith("control_adapter.")}
    transformer.load_state_dict(weights, strict=True)
    return transformer


def pipeline(vae: AutoencoderKLWan, high: Transformer, low: Transformer | None = None) -> WanImageToVideoPipeline:
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0)}
    made = WanImageToVideoPipeline(**parts, transformer=high, transformer_2=low, boundary_ratio=None if low is None else 0.9)
    made.set_progress_bar_config(disable=True)
    return made


def video(made: WanImageToVideoPipeline, output: str = "pt", **options: object) -> torch.Tensor:
    """Returns 5 frames of 32 x 48 from fixed image, text and noise, with classifier-free guidance: (1, 5, 3, 32, 48)."""
    generator = torch.Generator().manual_seed(3)
    text, no_text = torch.randn(2, 1, 5, 8, generator=generator)
    image = torch.rand(1, 3, 32, 48, generator=generator)
    given = {"height": 32, "width": 48, "num_frames": 5, "guidance_scale": 3.5, "num_inference_steps": 4, **options}
    return made(image, prompt_embeds=text, negative_prompt_embeds=no_text, generator=generator, output_type=output, **given).frames


def latents(made: WanImageToVideoPipeline) -> torch.Tensor:
    return video(made, output="latent").float()


def test_two_experts_make_the_video_of_diffusers_own_bit_for_bit(vae):
    """Steps at 1 and 0.9375 use the first expert, those at 0.8333 and 0.625 the second, each with a guidance of its own."""
    high, low = ours(1), ours(2)
    expected = video(pipeline(vae, theirs(high), theirs(low)), guidance_scale_2=2.0)
    assert torch.isfinite(expected).all() and expected.std() > 0.01
    assert torch.equal(video(pipeline(vae, high, low), guidance_scale_2=2.0), expected)
    assert not torch.equal(video(pipeline(vae, low, high), guidance_scale_2=2.0), expected)


def test_in_bfloat16_the_video_is_as_near_to_float32_as_diffusers_own(vae):
    """Not bit for bit: the fused operators round to bfloat16 once, Diffusers after each of their parts."""
    exact = latents(pipeline(vae, ours(1)))
    error, allowed = ((latents(pipeline(vae, model.bfloat16())) - exact).norm() for model in (ours(1), theirs(ours(1))))
    assert 0 < error < 1.5 * allowed


def test_one_expert_makes_the_video_of_diffusers_own_bit_for_bit(vae):
    expert = ours(1)
    expected = video(pipeline(vae, theirs(expert)))
    assert torch.equal(video(pipeline(vae, expert)), expected)
    assert not torch.equal(video(pipeline(vae, expert), guidance_scale=1.0), expected)


def test_a_saved_pipeline_is_loaded_with_our_transformers(vae, tmp_path: Path):
    made = pipeline(vae, ours(1), ours(2))
    made.save_pretrained(tmp_path)
    loaded = WanImageToVideoPipeline.from_pretrained(tmp_path, tokenizer=None, text_encoder=None)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.transformer, PipelineTransformer) and isinstance(loaded.transformer_2, PipelineTransformer)
    assert torch.equal(video(loaded), video(made))


def test_the_experts_of_a_model_folder_make_a_video(vae, tmp_path: Path):
    world = tiny_world(seed=1, num_layers=2)
    expected = video(pipeline(vae, *of(world)))
    world.save(tmp_path)
    assert torch.equal(video(pipeline(vae, *of(WorldModel.load(tmp_path)))), expected)
    read = [PipelineTransformer.from_pretrained(tmp_path, subfolder=name) for name in ("transformer", "transformer_2")]
    assert torch.equal(video(pipeline(vae, *read)), expected)


def test_arguments_that_would_have_no_effect_are_refused(vae):
    expert, given = ours(1), (torch.zeros(1, 36, 2, 4, 6), torch.zeros(1), torch.zeros(1, 5, 8))
    with pytest.raises(InputError, match=r"attention_kwargs: found dict, expected None"):
        video(pipeline(vae, expert), attention_kwargs={"scale": 0.5})
    with pytest.raises(InputError, match=r"encoder_hidden_states_image: found Tensor, expected None"):
        expert(*given, torch.zeros(1, 257, 1280))
    with pytest.raises(InputError, match=r"image_dim, added_kv_proj_dim: found 1280 and 48"):
        PipelineTransformer(**SIZES, image_dim=1280, added_kv_proj_dim=48)
