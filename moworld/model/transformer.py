"""The video DiT: Wan2.2's transformer (Diffusers' layout and key names) with camera tokens, per-frame timesteps and global time ids.

With the adapter's gate at zero, no camera and a 1-D timestep, the output equals Diffusers' `WanTransformer3DModel` bit for bit.
"""

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from moworld.model.camera_adapter import CameraAdapter
from moworld.model.rope import GlobalRotaryPosEmbed


class MoWorldTransformer3DModel(WanTransformer3DModel):
    """Wan's transformer, conditioned on cameras (eq. 5) and usable with history (paper 4.2)."""

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        spatial_downsample: int = 8,
        camera_gate: float = 0.0,
    ) -> None:
        super().__init__(
            patch_size,
            num_attention_heads,
            attention_head_dim,
            in_channels,
            out_channels,
            text_dim,
            freq_dim,
            ffn_dim,
            num_layers,
            cross_attn_norm,
            qk_norm,
            eps,
            image_dim,
            added_kv_proj_dim,
            rope_max_seq_len,
            pos_embed_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        self.rope = GlobalRotaryPosEmbed(attention_head_dim, tuple(patch_size), rope_max_seq_len)
        self.control_adapter = CameraAdapter(width, patch_size[1], spatial_downsample, camera_gate)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        camera: Tensor | None = None,
        frame_ids: Tensor | None = None,
    ) -> Tensor:
        """Velocity of every latent frame (eq. 1, 10, 16).

        hidden_states:         (B, in_channels, F, H, W) noisy latents, mask and condition latents on channels
        timestep:              (B,), (B, F) one per latent frame, or (B, N) one per token; 0 is clean, 1000 is noise
        encoder_hidden_states: (B, L, text_dim) text embeddings
        camera:                (B, 24, F, 8H, 8W) grouped Plücker rays; None leaves the patch embedding alone, zeros are an absent camera
        frame_ids:             (F,) or (B, F) global latent time ids; None means 0 to F - 1
        returns:               (B, out_channels, F, H, W)
        """
        batch, _, frames, height, width = hidden_states.shape
        p_t, p_h, p_w = self.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        rotary = self.rope(hidden_states) if frame_ids is None else self.rope(hidden_states, frame_ids)
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()  # (B, N, D)
        if camera is not None:
            x = x + self.control_adapter(camera.type_as(x))
        temb, modulation, text = self._embed_condition(timestep, encoder_hidden_states, tokens=x.shape[1])
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, text, modulation, rotary)
            else:
                x = block(x, text, modulation, rotary)
        x = self._project_out(x, temb)
        x = x.reshape(batch, *grid, p_t, p_h, p_w, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, out_channels, F, H, W)

    def _embed_condition(self, timestep: Tensor, text: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Time embedding (B, D) or (B, N, D), modulation (B, 6, D) or (B, N, 6, D), text (B, L, D).

        Timesteps per frame are embedded once a frame and then repeated: per token, the projection to 6 D would cost as much as a block.
        """
        length = timestep.shape[1] if timestep.ndim == 2 else None
        temb, modulation, text, _ = self.condition_embedder(timestep.flatten(), text, None, timestep_seq_len=length)
        modulation = modulation.unflatten(-1, (6, -1))
        if length is not None and length != tokens:
            temb = temb.repeat_interleave(tokens // length, dim=1)
            modulation = modulation.repeat_interleave(tokens // length, dim=1)
        return temb, modulation, text

    def _project_out(self, x: Tensor, temb: Tensor) -> Tensor:
        if temb.ndim == 3:
            shift, scale = (part.squeeze(2) for part in (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).chunk(2, dim=2))
        else:
            shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        return self.proj_out((self.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
