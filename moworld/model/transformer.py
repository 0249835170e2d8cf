"""The video DiT: Wan2.2's transformer (Diffusers' layout and key names) with camera tokens, per-frame timesteps and global time ids.

With the adapter's gate at zero, no camera and a 1-D timestep, the output equals Diffusers' `WanTransformer3DModel` bit for bit. For Diffusers'
pipelines see `moworld.model.pipeline`.

`prepare` computes once what is constant over the denoising steps of a window: rotary positions, text, camera tokens and, for block-causal
history, its keys and values. `forward` is `prepare` and then `denoise`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.kernels.modulated_norm import modulated_norm
from moworld.model.attention import TextCache
from moworld.model.block import TransformerBlock
from moworld.model.camera_adapter import CameraAdapter
from moworld.model.latent_cameras import Rays
from moworld.model.latent_grid import CODEC_GRID, LatentGrid
from moworld.model.layers import ConditionEmbedder, modulation_table
from moworld.model.rope import GlobalRotaryPosEmbed, Rotary
from moworld.model.sequence import KeysValues, Part, SequenceMesh


@dataclass(frozen=True)
class TransformerConfig:
    """What an expert's config.json holds: the values of Diffusers' `WanTransformer3DModel`, then those of MoWorld.

    qk_norm, image_dim, added_kv_proj_dim, pos_embed_seq_len: as Diffusers writes them; only these values are supported
    spatial_downsample: of the codec; camera_gate: of the adapter at the start; block_causal: how history attends
    Raises InputError for Wan2.1's image embeddings.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 36
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None
    spatial_downsample: int = CODEC_GRID.spatial
    camera_gate: float = 0.0
    block_causal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))  # a list in JSON
        if self.image_dim is not None or self.added_kv_proj_dim is not None:
            found, fix = f"{self.image_dim} and {self.added_kv_proj_dim}", "use Wan2.2's image-to-video experts"
            raise InputError("config.json", "image_dim, added_kv_proj_dim", found, "null: image embeddings are not supported", fix)

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class TransformerOutput:
    """sample: (B, out_channels, F, H, W) velocity"""

    sample: Tensor


@dataclass(frozen=True)
class Prepared:
    """The conditions of the N tokens that one expert denoises.

    text: (B, L, D); camera: (B, N, D) or None; rotary: cosines and sines (1 or B, N, 1, head_dim)
    part:       this rank's part of the tokens; None without a sequence mesh
    past:       keys and values of the history's tokens for every block; None if history is among the N tokens
    text_cache: shared by the denoising steps of a window; None while gradients are recorded
    """

    text: Tensor
    camera: Tensor | None
    rotary: Rotary
    part: Part | None = None
    past: list[KeysValues] | None = None
    text_cache: TextCache | None = None


class MoWorldTransformer3DModel(nn.Module):
    """Wan's transformer, conditioned on cameras (eq. 5) and usable with history (paper 4.2).

    sizes: the values of `TransformerConfig`
    recompute: as `torch.utils.checkpoint.checkpoint`, what runs a block so that its activations are computed again for gradients; None keeps them
    Raises InputError for Wan2.1's image embeddings.
    """

    blocks: Any  # a ModuleList of TransformerBlock

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.config = config = TransformerConfig(**sizes)
        width, patch = config.width, config.patch_size
        self.rope = GlobalRotaryPosEmbed(config.attention_head_dim, patch, config.rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(config.in_channels, width, kernel_size=patch, stride=patch)
        self.condition_embedder = ConditionEmbedder(width, config.freq_dim, config.text_dim)
        block = width, config.ffn_dim, config.num_attention_heads, config.cross_attn_norm, config.eps
        self.blocks = nn.ModuleList(TransformerBlock(*block, index) for index in range(config.num_layers))
        self.proj_out = nn.Linear(width, config.out_channels * math.prod(patch))
        self.scale_shift_table = modulation_table(2, width)
        self.control_adapter = CameraAdapter(width, patch[1], config.spatial_downsample, config.camera_gate)
        self.sequence: SequenceMesh | None = None
        self.recompute: Callable[..., Any] | None = None

    def share_sequence(self, sequence: SequenceMesh | None) -> None:
        """Shares the tokens of each sample with the ranks of a mesh. Raises InputError if the mesh does not divide the heads."""
        heads = self.config.num_attention_heads
        if sequence is not None and heads % sequence.ulysses:
            found, fix = f"{heads} heads for {sequence.ulysses} ranks", "choose a divisor and use a ring for the rest"
            raise InputError("parallel", "ulysses", found, "a degree that divides the heads", fix)
        self.sequence = sequence

    def part(self, hidden_states_shape: tuple[int, ...]) -> Part | None:
        """Returns this rank's part of the tokens of latents (B, C, F, H, W); None without a sequence mesh."""
        if self.sequence is None:
            return None
        _, _, frames, height, width = hidden_states_shape
        rows, columns = LatentGrid(self.config.patch_size).token_size(height, width)
        return self.sequence.part(frames // self.config.patch_size[0], rows * columns)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        camera: Rays | Tensor | None = None,
        frame_ids: Tensor | None = None,
        history: Tensor | None = None,
    ) -> TransformerOutput | tuple[Tensor]:
        """Returns the velocity of every latent frame (eq. 1, 10, 16). Diffusers' arguments come first, in its order.

        hidden_states:         (B, in_channels, F, H, W) noisy latents, mask and condition latents on channels
        timestep:              (B,), (B, F) one per latent frame, or (B, N) one per token; 0 is clean, 1000 is noise
        encoder_hidden_states: (B, L, text_dim) text embeddings
        camera:                grouped Plücker rays of K + F frames, or their maps (B, 24, K + F, 8H, 8W); None adds no camera tokens,
                               zeros mean an absent camera. On a sequence mesh, the rays of `part(...).frames` alone are enough
        frame_ids:             (K + F,) or (B, K + F) global latent time ids; None means 0 to K + F - 1
        history:               (B, in_channels, K, H, W) clean frames of block-causal experts: they attend to each other only, and the F
                               frames attend to all. None: K = 0; any history is then among the F frames and attends jointly
        returns:               (B, out_channels, F, H, W) in the dtype of hidden_states, on every rank of a sequence mesh: as `sample`, or
                               alone in a tuple if not return_dict
        Raises InputError for Diffusers' other arguments: image embeddings and attention_kwargs.
        """
        for name, given in (("encoder_hidden_states_image", encoder_hidden_states_image), ("attention_kwargs", attention_kwargs or None)):
            if given is not None:
                raise InputError("transformer", name, type(given).__name__, "None: it would have no effect", "omit it")
        cls = MoWorldTransformer3DModel  # not through self: FSDP gathers the weights once for both parts
        prepared = cls.prepare(self, hidden_states, encoder_hidden_states, camera, frame_ids, history)
        if prepared.past is None:  # nothing reads the text's keys and values again (0.4 GB in the paper's model)
            prepared = replace(prepared, text_cache=None)
        velocity = cls.denoise(self, hidden_states, timestep, prepared)
        return TransformerOutput(velocity) if return_dict else (velocity,)

    def prepare(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        camera: Rays | Tensor | None = None,
        frame_ids: Tensor | None = None,
        history: Tensor | None = None,
    ) -> Prepared:
        """Returns the conditions for `denoise`. Arguments are as in `forward`; only the shape of hidden_states is read."""
        _, _, frames, height, width = hidden_states.shape
        num_history = 0 if history is None else history.shape[2]
        total, low = num_history + frames, self.patch_embedding.weight.dtype  # the weights' dtype may differ from the caller's
        text = self.condition_embedder.text_embedder(encoder_hidden_states.to(low))
        ids = torch.arange(total, device=hidden_states.device) if frame_ids is None else frame_ids
        cache = None if torch.is_grad_enabled() else TextCache(len(self.blocks))

        def conditions(first: int, count: int) -> Prepared:
            part = self.part((1, 1, count, height, width))
            own = slice(0, count) if part is None else part.frames
            own = slice(first + own.start, first + own.stop)
            rays, rotary = _select(camera, own, total), self.rope(ids[..., own], height, width)
            tokens = None if rays is None else self.control_adapter(rays.to(low))
            if part is not None:
                tokens, rotary = None if tokens is None else part.select(tokens), (part.select(rotary[0]), part.select(rotary[1]))
            return Prepared(text, tokens, rotary, part, text_cache=cache)

        if history is None or not num_history:
            return conditions(0, frames)
        front = conditions(0, num_history)
        past = self._history_keys_values(history.to(low), front)
        return replace(conditions(num_history, frames), past=past)

    def denoise(self, hidden_states: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Returns the velocity of latent frames at `timestep` (see `forward`) under prepared conditions."""
        _, _, frames, height, width = hidden_states.shape
        part, dtype = prepared.part, hidden_states.dtype
        if part is not None and timestep.ndim == 2:
            timestep = timestep.unflatten(1, (frames, -1))[:, part.frames].flatten(1)
        x, temb, modulation = self._embed(hidden_states, timestep, prepared)
        for index in range(len(self.blocks)):
            x, _ = self._run(index, x, modulation, prepared)
        x = self._project_out(x, temb)
        if self.sequence is not None and part is not None:
            x = self.sequence.gather(x, part.total)
        p_t, p_h, p_w = self.config.patch_size
        x = x.to(dtype).unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(-1, (p_t, p_h, p_w, -1))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, out_channels, F, H, W)

    def _history_keys_values(self, history: Tensor, prepared: Prepared) -> list[KeysValues]:
        """Returns every block's keys and values of clean history frames (B, in_channels, K, H, W), which attend to each other at t = 0."""
        x, _, modulation = self._embed(history, history.new_zeros(len(history)), prepared)
        past, last = list[KeysValues](), len(self.blocks) - 1
        for index in range(len(self.blocks)):
            x, own = self._run(index, x, modulation, prepared, kv_only=index == last)
            past.append(own)
        return past

    def _run(self, index: int, x: Tensor, modulation: Tensor, prepared: Prepared, kv_only: bool = False) -> tuple[Tensor, KeysValues]:
        """Runs one block: returns its output, and the keys and values of its tokens."""
        past = None if prepared.past is None else prepared.past[index]
        arguments = (x, prepared.text, modulation, prepared.rotary, prepared.part, past, prepared.text_cache, kv_only)
        if torch.is_grad_enabled() and self.recompute is not None:
            return self.recompute(self.blocks[index], *arguments)  # type: ignore[no-any-return]
        return self.blocks[index](*arguments)  # type: ignore[no-any-return]

    def _embed(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor, Tensor]:
        """Returns tokens (B, N, D) of this rank with their camera added, time outermost; and the results of `_embed_time`."""
        part = prepared.part
        latents = (latents if part is None else latents[:, :, part.frames]).to(self.patch_embedding.weight.dtype)
        x = self.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        temb, modulation = self._embed_time(timestep, tokens=x.shape[1], like=prepared.text)
        if part is not None:
            x = part.select(x)
            if temb.ndim == 3:
                temb, modulation = part.select(temb), part.select(modulation)
        return (x if prepared.camera is None else x + prepared.camera), temb, modulation

    def _embed_time(self, timestep: Tensor, tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the time embedding (B, D) or (B, N, D) and the modulation (B, 6, D) or (B, N, 6, D).

        Timesteps per frame are embedded per frame and then repeated: per token, the projection to 6 D would cost as much as a block.
        """
        length = timestep.shape[1] if timestep.ndim == 2 else None
        temb = self.condition_embedder.embed_time(timestep).type_as(like)
        modulation = self.condition_embedder.modulate(temb)
        if length is not None and length != tokens:
            temb = temb.repeat_interleave(tokens // length, dim=1)
            modulation = modulation.repeat_interleave(tokens // length, dim=1)
        return temb, modulation

    def _project_out(self, x: Tensor, temb: Tensor) -> Tensor:
        temb = temb if temb.ndim == 3 else temb.unsqueeze(1)  # (B, N, D) or (B, 1, D)
        shift, scale = (self.scale_shift_table.unsqueeze(0) + temb.unsqueeze(2)).unbind(2)
        return self.proj_out(modulated_norm(x, scale, shift, self.config.eps))


def _select(camera: Rays | Tensor | None, frames: slice, total: int) -> Rays | Tensor | None:
    """Returns the cameras of some frames; a camera of fewer than `total` frames covers exactly these already."""
    if isinstance(camera, Tensor):
        return camera[:, :, frames] if camera.shape[2] == total else camera
    return camera[frames] if camera is not None and len(camera) == total else camera
