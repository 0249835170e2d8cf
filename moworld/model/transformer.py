"""The video DiT: Wan2.2's transformer (Diffusers' layout and key names) with camera tokens, per-frame timesteps and global time ids.

With the adapter's gate at zero, no camera and a 1-D timestep, the output equals Diffusers' `WanTransformer3DModel` bit for bit.
"""

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from moworld.model.attention import SelfAttention
from moworld.model.camera_adapter import CameraAdapter
from moworld.model.rope import GlobalRotaryPosEmbed
from moworld.model.sequence import Part, SequenceMesh


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
        self.sequence: SequenceMesh | None = None
        for block in self.blocks:
            block.attn1.set_processor(SelfAttention())

    def share_sequence(self, sequence: SequenceMesh | None) -> None:
        """Share the tokens of each sample with other ranks. Raises InputError where the heads cannot be dealt out evenly."""
        if sequence is not None:
            sequence.check_heads(self.config.num_attention_heads)
        self.sequence = sequence
        for block in self.blocks:
            block.attn1.processor.sequence = sequence

    def part(self, hidden_states_shape: tuple[int, ...]) -> Part | None:
        """The tokens and latent frames that this rank works on, for latents (B, C, F, H, W); None where it works on all."""
        if self.sequence is None:
            return None
        _, _, frames, height, width = hidden_states_shape
        p_t, p_h, p_w = self.config.patch_size
        return self.sequence.part(frames // p_t, (height // p_h) * (width // p_w))

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
        camera:                (B, 24, F, 8H, 8W) grouped Plücker rays; None leaves the patch embedding alone, zeros are an absent camera;
                               where ranks share a sample, the rays of `part(...).frames` alone will do
        frame_ids:             (F,) or (B, F) global latent time ids; None means 0 to F - 1
        returns:               (B, out_channels, F, H, W) in the dtype of hidden_states, on every rank of those that share the sample
        """
        batch, _, frames, height, width = hidden_states.shape
        part = self.part(hidden_states.shape)
        if part is not None:
            hidden_states, timestep, camera, frame_ids = self._frames_of(part, hidden_states, timestep, camera, frame_ids)
        dtype, low = hidden_states.dtype, self.patch_embedding.weight.dtype  # of the caller, and of the weights as they are computed with
        hidden_states, encoder_hidden_states = hidden_states.to(low), encoder_hidden_states.to(low)
        p_t, p_h, p_w = self.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        rotary = self.rope(hidden_states) if frame_ids is None else self.rope(hidden_states, frame_ids)
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()  # (B, N, D)
        if camera is not None:
            x = x + self.control_adapter(camera.type_as(x))
        temb, modulation, text = self._embed_condition(timestep, encoder_hidden_states, tokens=x.shape[1])
        if part is not None:
            x, rotary = part.of_frames(x), (part.of_frames(rotary[0]), part.of_frames(rotary[1]))
            if temb.ndim == 3:
                temb, modulation = part.of_frames(temb), part.of_frames(modulation)
        for block in self.blocks:
            block.attn1.processor.part = part
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, text, modulation, rotary)
            else:
                x = block(x, text, modulation, rotary)
        x = self._project_out(x, temb)
        if self.sequence is not None and part is not None:
            x = self.sequence.gather(x, part.total)
        x = x.to(dtype).reshape(batch, *grid, p_t, p_h, p_w, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, out_channels, F, H, W)

    @staticmethod
    def _frames_of(
        part: Part, hidden_states: Tensor, timestep: Tensor, camera: Tensor | None, frame_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The inputs of `forward` cut to the latent frames of a part."""
        frames = hidden_states.shape[2]
        ids = torch.arange(frames, device=hidden_states.device) if frame_ids is None else frame_ids
        if camera is not None and camera.shape[2] == frames:
            camera = camera[:, :, part.frames]
        if timestep.ndim == 2:
            timestep = timestep.unflatten(1, (frames, -1))[:, part.frames].flatten(1)
        return hidden_states[:, :, part.frames], timestep, camera, ids[..., part.frames]

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
