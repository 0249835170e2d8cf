"""Wan's VAE with the interface of `StreamingCodec`: the same 4 x 8 x 8 grid and 16 channels, latents of zero mean and unit variance."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike, read_json_object
from moworld.model.codec import StreamingCodec, per_channel


class WanCodec(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] <-> latents (B, 16, F, H/8, W/8), T = 4 (F - 1) + 1, whole or in chunks."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        for name, values in (("mean", vae.config.latents_mean), ("std", vae.config.latents_std)):
            self.register_buffer(name, per_channel(torch.tensor(values)), persistent=False)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encodes (B, 3, T, H, W), T = 4 k + 1 -> (B, C, k + 1, h, w): the posterior's mode, normalised."""
        return (self.vae.encode(video.to(self.vae.dtype)).latent_dist.mode().to(video) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes a whole video: (B, C, F, h, w) -> (B, 3, 4 (F - 1) + 1, H, W)."""
        return self.decode_chunk(latents, None)[0]

    @torch.no_grad()
    def decode_chunk(self, latents: Tensor, cache: list[Any] | None) -> tuple[Tensor, list[Any]]:
        """Decodes the latent frames after those already decoded with the cache (the causal convolutions' last frames, as in Diffusers).

        cache:   None at the start of a video, whose first latent frame is one video frame; it is not modified
        returns: (B, 3, T, H, W) in [-1, 1] with T = 4 F, or 4 (F - 1) + 1 at the start; and the cache for the next chunk
        """
        if cache is None:
            self.vae.clear_cache()
        following = list(self.vae._feat_map if cache is None else cache)
        raw = self.vae.post_quant_conv((latents * self.std + self.mean).to(self.vae.dtype))
        frames = []
        for index in range(raw.shape[2]):
            is_first = cache is None and index == 0
            frames.append(self.vae.decoder(raw[:, :, index : index + 1], feat_cache=following, feat_idx=[0], first_chunk=is_first))
        return torch.cat(frames, dim=2).clamp(-1, 1).to(latents), following


def load_codec(folder: Pathlike) -> StreamingCodec | WanCodec:
    """Reads the autoencoder of a folder: `train_codec`'s or Wan's. Raises InputError for any other."""
    root, fix = Path(folder), "fetch the whole folder again"
    name = read_json_object(root / "config.json").get("_class_name", "")
    if name != "AutoencoderKLWan":
        return StreamingCodec.from_pretrained(root)
    from diffusers import AutoencoderKLWan

    try:
        vae, report = AutoencoderKLWan.from_pretrained(root, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, RecursionError) as error:
        raise InputError(root, "", (str(error).splitlines() or [type(error).__name__])[0], "Wan2.2's vae/ with safetensors", fix) from None
    if wrong := [*report["missing_keys"], *report["unexpected_keys"]]:  # Diffusers only logs that it initialised missing weights randomly
        raise InputError(root, wrong[0], f"{len(wrong)} missing or unknown keys", "Wan2.2's weights", fix)
    if vae.config.patch_size is not None or vae.config.z_dim != 16:
        found = f"{vae.config.z_dim} channels, patch {vae.config.patch_size}"
        raise InputError(root / "config.json", "z_dim", found, "16 channels of the 4 x 8 x 8 autoencoder", "use the A14B release's vae/")
    return WanCodec(vae.eval().requires_grad_(False)).eval()
