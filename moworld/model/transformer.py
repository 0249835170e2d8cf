"""The video DiT: Wan2.2's transformer (Diffusers' layout and key names) with camera tokens, per-frame timesteps and global time ids.

With the adapter's gate at zero, no camera and a 1-D timestep, the output equals Diffusers' `WanTransformer3DModel` bit for bit.

What stays fixed through the denoising steps of a window is computed once, in `prepare`: rotary positions, text, camera tokens and, where
history is block-causal, the keys and values of its tokens. `forward` prepares and denoises in one.
"""

from dataclasses import dataclass, replace

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from kernels.modulated_norm import modulated_norm
from moworld.model.attention import KeptText, KeysValues
from moworld.model.block import TransformerBlock
from moworld.model.camera_adapter import CameraAdapter
from moworld.model.latent_cameras import Rays
from moworld.model.rope import GlobalRotaryPosEmbed, Rotary
from moworld.model.sequence import Part, SequenceMesh


@dataclass(frozen=True)
class Prepared:
    """The conditions of a window as one expert sees them, for the tokens that are denoised.

    text: (B, L, D); camera: (B, N, D) or None; rotary: cosines and sines (1 or B, N, 1, head_dim)
    past: for every block the keys and values (B, M, H, head_dim) of the history's tokens; None where history is among the N tokens
    known: how many tokens these are, on all ranks that share the sample
    kept: for every block the text's keys and values, as the first step that needs them leaves them; None while gradients are wanted
    """

    text: Tensor
    camera: Tensor | None
    rotary: Rotary
    part: Part | None = None
    past: list[KeysValues] | None = None
    known: int = 0
    kept: list[KeptText] | None = None


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
        block_causal: bool = False,
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
            TransformerBlock.adopt(block)

    def share_sequence(self, sequence: SequenceMesh | None) -> None:
        """Share the tokens of each sample with other ranks. Raises InputError where they, or the heads, cannot be dealt out."""
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
        camera: Rays | Tensor | None = None,
        frame_ids: Tensor | None = None,
        history: Tensor | None = None,
    ) -> Tensor:
        """Velocity of every latent frame (eq. 1, 10, 16).

        hidden_states:         (B, in_channels, F, H, W) noisy latents, mask and condition latents on channels
        timestep:              (B,), (B, F) one per latent frame, or (B, N) one per token; 0 is clean, 1000 is noise
        encoder_hidden_states: (B, L, text_dim) text embeddings
        camera:                grouped Plücker rays of K + F frames, or their maps (B, 24, K + F, 8H, 8W); None leaves the patch embedding
                               alone, zeros are an absent camera;
                               where ranks share a sample, the rays of `part(...).frames` alone will do
        frame_ids:             (K + F,) or (B, K + F) global latent time ids; None means 0 to K + F - 1
        history:               (B, in_channels, K, H, W) of block-causal experts: clean frames that see each other and not the F frames,
                               which see all. None: K = 0, and history, if any, is among the F frames and attends jointly
        returns:               (B, out_channels, F, H, W) in the dtype of hidden_states, on every rank of those that share the sample
        """
        cls = MoWorldTransformer3DModel  # not through self: sharded experts gather their weights once for both parts
        return cls.denoise(
            self, hidden_states, timestep, cls.prepare(self, hidden_states, encoder_hidden_states, camera, frame_ids, history)
        )

    def prepare(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        camera: Rays | Tensor | None = None,
        frame_ids: Tensor | None = None,
        history: Tensor | None = None,
    ) -> Prepared:
        """What `denoise` needs besides noisy latents and timestep; arguments as in `forward`, of hidden_states the shape alone is read."""
        part, (_, _, frames, height, width) = self.part(hidden_states.shape), hidden_states.shape
        if part is not None and history is not None and history.shape[2]:
            return self._prepare_shared(hidden_states, encoder_hidden_states, camera, frame_ids, history)
        known = 0 if history is None else history.shape[2]
        ids = torch.arange(known + frames, device=hidden_states.device) if frame_ids is None and (known or part) else frame_ids
        if part is not None:
            assert ids is not None
            camera = _of_frames(camera, part, frames)
            ids, frames = ids[..., part.frames], part.frames.stop - part.frames.start
        low = self.patch_embedding.weight.dtype  # of the weights as they are computed with; the caller's may be another
        text = self.condition_embedder.text_embedder(encoder_hidden_states.to(low))
        tokens = None if camera is None else self.control_adapter(camera.to(low))
        # the table is gathered at ids; of the latents only the shape and the device are read
        shape = hidden_states.new_empty(1).expand(1, 1, known + frames, height, width)
        rotary = self.rope(shape) if ids is None else self.rope(shape, ids)
        if part is not None:
            tokens = None if tokens is None else part.of_frames(tokens)
            rotary = (part.of_frames(rotary[0]), part.of_frames(rotary[1]))
        kept = None if torch.is_grad_enabled() else KeptText.rooms(len(self.blocks))
        if history is None or not known:
            return Prepared(text, tokens, rotary, part, kept=kept)
        split = known * (height // self.config.patch_size[1]) * (width // self.config.patch_size[2])
        (front_tokens, tokens) = (None, None) if tokens is None else (tokens[:, :split], tokens[:, split:])
        front = Prepared(text, front_tokens, (rotary[0][:, :split], rotary[1][:, :split]), kept=kept)
        past = self._read(history.to(low), front)
        return Prepared(text, tokens, (rotary[0][:, split:], rotary[1][:, split:]), None, past, kept=kept)

    def _prepare_shared(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, camera: Rays | Tensor | None, frame_ids: Tensor | None, history: Tensor
    ) -> Prepared:
        """`prepare` with block-causal history over ranks: each works on its parts of the history's tokens and of the others."""
        low, (_, _, frames, height, width), known = self.patch_embedding.weight.dtype, hidden_states.shape, history.shape[2]
        ids = torch.arange(known + frames, device=hidden_states.device) if frame_ids is None else frame_ids
        text = self.condition_embedder.text_embedder(encoder_hidden_states.to(low))

        kept = None if torch.is_grad_enabled() else KeptText.rooms(len(self.blocks))

        def of(first: int, count: int) -> Prepared:
            part = self.part((1, 1, count, height, width))
            assert part is not None
            own = slice(first + part.frames.start, first + part.frames.stop)
            rays = None if camera is None else (camera[:, :, own] if isinstance(camera, Tensor) else camera[own]).to(low)
            rotary = self.rope(hidden_states.new_empty(1).expand(1, 1, own.stop - own.start, height, width), ids[..., own])
            tokens = None if rays is None else part.of_frames(self.control_adapter(rays))
            return Prepared(text, tokens, (part.of_frames(rotary[0]), part.of_frames(rotary[1])), part, kept=kept)

        front = of(0, known)
        assert front.part is not None
        past = self._read(history[:, :, front.part.frames].to(low), front)
        return replace(of(known, frames), past=past, known=front.part.total)

    def denoise(self, hidden_states: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Velocity of the latent frames `hidden_states` at `timestep` (see `forward`) under prepared conditions."""
        _, _, frames, height, width = hidden_states.shape
        part, dtype = prepared.part, hidden_states.dtype
        if part is not None:
            hidden_states = hidden_states[:, :, part.frames]
            if timestep.ndim == 2:
                timestep = timestep.unflatten(1, (frames, -1))[:, part.frames].flatten(1)
        x = self._embed(hidden_states)
        temb, modulation = self._embed_time(timestep, tokens=x.shape[1], like=prepared.text)
        if part is not None:
            x = part.of_frames(x)
            if temb.ndim == 3:
                temb, modulation = part.of_frames(temb), part.of_frames(modulation)
        x = x if prepared.camera is None else x + prepared.camera
        for index in range(len(self.blocks)):
            x, _ = self._run(index, x, modulation, prepared)
        x = self._project_out(x, temb)
        if self.sequence is not None and part is not None:
            x = self.sequence.gather(x, part.total)
        p_t, p_h, p_w = self.config.patch_size
        x = x.to(dtype).unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(-1, (p_t, p_h, p_w, -1))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, out_channels, F, H, W)

    def _read(self, history: Tensor, prepared: Prepared) -> list[KeysValues]:
        """The keys and values of every block for clean history frames (B, in_channels, K, H, W), which attend to each other alone (t = 0)."""
        x = self._embed(history)
        x = x if prepared.part is None else prepared.part.of_frames(x)
        _, modulation = self._embed_time(x.new_zeros(x.shape[0]), tokens=x.shape[1], like=prepared.text)
        x, past = x if prepared.camera is None else x + prepared.camera, list[KeysValues]()
        for index in range(len(self.blocks)):
            x, own = self._run(index, x, modulation, prepared, keys_alone=index == len(self.blocks) - 1)
            past.append(own)
        return past

    def _run(self, index: int, x: Tensor, modulation: Tensor, prepared: Prepared, keys_alone: bool = False) -> tuple[Tensor, KeysValues]:
        """One block: its output, and the keys and values of its own tokens."""
        past = None if prepared.past is None else prepared.past[index]
        kept = None if prepared.kept is None else prepared.kept[index]
        arguments = (x, prepared.text, modulation, prepared.rotary, prepared.part, past, prepared.known, kept, keys_alone)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(self.blocks[index], *arguments)  # type: ignore[no-any-return]
        return self.blocks[index](*arguments)  # type: ignore[no-any-return]

    def _embed(self, hidden_states: Tensor) -> Tensor:
        """(B, in_channels, F, H, W) -> tokens (B, N, D), time outermost."""
        return self.patch_embedding(hidden_states.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2).contiguous()  # type: ignore[no-any-return]

    def _embed_time(self, timestep: Tensor, tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding (B, D) or (B, N, D), modulation (B, 6, D) or (B, N, 6, D).

        Timesteps per frame are embedded once a frame and then repeated: per token, the projection to 6 D would cost as much as a block.
        """
        embedder, length = self.condition_embedder, timestep.shape[1] if timestep.ndim == 2 else None
        waves = embedder.timesteps_proj(timestep.flatten())
        if length is not None:
            waves = waves.unflatten(0, (-1, length))
        temb = embedder.time_embedder(waves.to(embedder.time_embedder.linear_1.weight.dtype)).type_as(like)
        modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(-1, (6, -1))
        if length is not None and length != tokens:
            temb = temb.repeat_interleave(tokens // length, dim=1)
            modulation = modulation.repeat_interleave(tokens // length, dim=1)
        return temb, modulation

    def _project_out(self, x: Tensor, temb: Tensor) -> Tensor:
        if temb.ndim == 3:
            shift, scale = (part.squeeze(2) for part in (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).chunk(2, dim=2))
        else:
            shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        return self.proj_out(modulated_norm(x, scale, shift, self.norm_out.eps))


def _of_frames(camera: Rays | Tensor | None, part: Part, frames: int) -> Rays | Tensor | None:
    """The cameras of a rank's frames, unless it was given those alone."""
    if isinstance(camera, Tensor):
        return camera if camera.shape[2] != frames else camera[:, :, part.frames]
    return camera if camera is None or len(camera) != frames else camera[part.frames]
