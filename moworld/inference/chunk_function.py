"""The denoising of a chunk as one function of plain tensors with static shapes, which a compiler takes whole (see `openvino`).

It equals `moworld.model.rollout.denoise_few_steps` to float32's rounding, and is faster for a compiler: query, key and value are one product,
channels of a rotary pair are halves instead of neighbours, modulations of the schedule's levels are constants, INT8 weights are dequantized.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moworld.model.experts import Experts
from moworld.model.flow import NUM_TIMESTEPS, add_noise, clean_from_velocity
from moworld.model.int8 import Int8Linear
from moworld.model.latent_cameras import Rays
from moworld.model.settings import Sampler
from moworld.model.window import Window

Rotary = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]


class ChunkFunction(nn.Module):
    """The sampler's steps over a window: experts, noise levels and camera pixels are constants, the tensors of `INPUTS` arguments.

    window: of one sample with one set of intrinsics; its shapes and the camera's pixels become constants
    """

    modulations: Tensor
    out_modulations: Tensor

    def __init__(self, experts: Experts, schedule: Tensor, sampler: Sampler, window: Window) -> None:
        super().__init__()
        self.levels, self.sampler = [float(level) for level in schedule], sampler
        self.names = [experts.name_at(level) for level in self.levels]
        used = {name: expert for name, expert in experts.named_experts() if name in self.names}
        self.experts = nn.ModuleDict({name: ExpertFunction(expert, window) for name, expert in used.items()})
        modulations = [time_modulations(used[name], level) for name, level in zip(self.names, self.levels, strict=True)]
        self.register_buffer("modulations", torch.stack([blocks for blocks, _ in modulations]))
        self.register_buffer("out_modulations", torch.stack([out for _, out in modulations]))

    def forward(
        self, noise: Tensor, condition: Tensor, history: Tensor, motion: Tensor, cosines: Tensor, sines: Tensor, text: Tensor
    ) -> Tensor:
        """Returns the clean latents (1, C, F, h, w).

        noise:          (S', 1, C, F, h, w), S' of `num_noises`
        cosines, sines: (1, N, 1, head_dim / 2) of all N tokens, one for each rotary pair
        condition, history, text: see `Window`; motion: see `Rays`
        """
        prepared: dict[str, Any] = {}
        noisy = clean = noise[0]
        for index, (level, name) in enumerate(zip(self.levels, self.names, strict=True)):
            expert: Any = self.experts[name]
            if name not in prepared:
                prepared[name] = expert.prepare(condition, history, motion, (cosines, sines), text)
            modulations = self.modulations[index], self.out_modulations[index]
            velocity = expert.velocity(noisy, condition, history, modulations, prepared[name])
            clean = clean_from_velocity(noisy, velocity, level)
            if index + 1 < len(self.levels):
                fresh = noise[index + 1] if self.sampler == "stochastic" else noisy + (1 - level) * velocity
                noisy = add_noise(clean, fresh, self.levels[index + 1])  # type: ignore[arg-type]
        return clean


INPUTS = ("noise", "condition", "history", "motion", "cosines", "sines", "text")


def num_noises(num_steps: int, sampler: Sampler) -> int:
    """Returns how many noises the sampler draws for a window."""
    return num_steps if sampler == "stochastic" else 1


@torch.no_grad()
def time_modulations(expert: Any, level: float) -> tuple[Tensor, Tensor]:
    """Returns shift, scale and gate of every block (num_layers, 6, D), and shift and scale of the output (2, D), at a noise level."""
    embedder = expert.condition_embedder
    temb = embedder.embed_time(torch.tensor([level * NUM_TIMESTEPS])).float()
    shared = embedder.modulate(temb).float()
    blocks = torch.cat([block.scale_shift_table.float() + shared for block in expert.blocks])
    return blocks, (expert.scale_shift_table + temb.unsqueeze(1))[0].float()


class ExpertFunction(nn.Module):
    """An expert as functions of plain tensors (see `MoWorldTransformer3DModel`). The weights are float32 copies."""

    basis: Tensor
    camera_bias: Tensor
    clean: Tensor

    def __init__(self, expert: Any, window: Window) -> None:
        super().__init__()
        self.patch, self.shape, self.known = tuple(expert.config.patch_size), window.shape, window.history.shape[2]
        self.frames, self.rows, self.columns = (size // patch for size, patch in zip(window.shape[2:], self.patch, strict=True))
        self.block_causal, self.front = bool(expert.config.block_causal) and self.known > 0, self.known * self.rows * self.columns
        self.embedding, self.text_embedder, self.out = expert.patch_embedding, expert.condition_embedder.text_embedder, expert.proj_out
        self.eps, adapter = expert.config.eps, expert.control_adapter
        self.adapter_blocks, self.gate = adapter.residual_blocks, adapter.gate
        self.register_buffer("basis", camera_basis(adapter, window.camera))
        self.register_buffer("camera_bias", adapter.conv.bias.detach().float()[:, None, None])
        clean = 0 if self.block_causal else self.front
        self.blocks = nn.ModuleList(BlockFunction(block, clean, self.frames * self.rows * self.columns) for block in expert.blocks)
        self.register_buffer("clean", time_modulations(expert, 0.0)[0])

    def prepare(self, condition: Tensor, history: Tensor, motion: Tensor, rotary: Rotary, text: Tensor) -> Any:
        """Returns what is constant over denoising steps: camera tokens, rotary, text, and keys and values of block-causal history."""
        camera = self._camera(motion)
        embedded = self.text_embedder(text)
        texts = [block.text_keys_values(embedded) for block in self.blocks]  # type: ignore[operator]
        if not self.block_causal:
            return camera, rotary, texts, None
        split = self.front
        known = torch.cat([history, condition[:, :, : self.known]], dim=1)
        x, front, past = self._embed(known) + camera[:, :split], (rotary[0][:, :split], rotary[1][:, :split]), []
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            x, own = block(x, (self.clean[index],), front, texts[index], None, last)
            past.append(own)
        return camera[:, split:], (rotary[0][:, split:], rotary[1][:, split:]), texts, past

    def velocity(self, noisy: Tensor, condition: Tensor, history: Tensor, modulations: tuple[Tensor, Tensor], prepared: Any) -> Tensor:
        """Returns the velocity (1, C, F, h, w) of noisy latents."""
        camera, rotary, texts, past = prepared
        if self.block_causal:
            x = torch.cat([noisy, condition[:, :, self.known :]], dim=1)
        else:
            x = torch.cat([torch.cat([history, noisy], dim=2), condition], dim=1)
        x = self._embed(x) + camera
        for index, block in enumerate(self.blocks):
            own = (modulations[0][index],) if self.block_causal or not self.known else (self.clean[index], modulations[0][index])
            x, _ = block(x, own, rotary, texts[index], None if past is None else past[index], False)
        shift, scale = modulations[1][0], modulations[1][1]
        x = x if self.block_causal else x[:, self.front :]
        x = self.out(functional.layer_norm(x, (self.out.in_features,), eps=self.eps) * (1 + scale) + shift)
        x = x.reshape(1, self.frames, self.rows, self.columns, *self.patch, self.shape[1]).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(self.shape)

    def _embed(self, latents: Tensor) -> Tensor:
        return self.embedding(latents).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def _camera(self, motion: Tensor) -> Tensor:
        """Returns camera tokens (1, N, D) of motion (1, K + F, 24, 3)."""
        x = torch.matmul(motion[0].flatten(1), self.basis).unflatten(1, (-1, self.rows, self.columns)) + self.camera_bias
        for block in self.adapter_blocks:
            x = block(x)
        return (self.gate * x.flatten(2).transpose(1, 2)).flatten(0, 1)[None]


@torch.no_grad()
def camera_basis(adapter: Any, rays: Rays) -> Tensor:
    """Returns the adapter's first convolution, which is linear, of each of the 72 numbers of `Rays.motion`: (72, D h w), without bias."""
    rows = []
    for motion in torch.eye(72).view(72, 1, 1, 24, 3):
        maps = Rays(motion, rays.directions.float()).maps()[:, :, 0]
        rows.append(functional.conv2d(adapter.unshuffle(maps), adapter.conv.weight.float(), stride=adapter.conv.stride).flatten())
    return torch.stack(rows)


class BlockFunction(nn.Module):
    """A block of the transformer over tokens (1, N, D); see `TransformerBlock`.

    clean, noisy: numbers of tokens with the first and the second of two modulations
    """

    query_norm: Tensor
    key_norm: Tensor
    text_query_norm: Tensor
    text_key_norm: Tensor

    def __init__(self, block: Any, clean: int, noisy: int) -> None:
        super().__init__()
        own, cross = block.attn1, block.attn2
        self.clean, self.noisy, self.width = clean, noisy, own.to_q.out_features
        self.heads, self.eps = own.heads, (block.eps, block.eps, own.norm_q.eps, cross.norm_q.eps)
        order = halves(self.width, own.heads)
        self.qkv = joined(dense(own.to_q, order), dense(own.to_k, order), dense(own.to_v))
        self.register_buffer("query_norm", own.norm_q.weight.detach().float()[order])
        self.register_buffer("key_norm", own.norm_k.weight.detach().float()[order])
        self.out, self.norm2 = dense(own.to_out[0]), block.norm2
        self.text_query, self.text_out = dense(cross.to_q), dense(cross.to_out[0])
        self.text_key, self.text_value = dense(cross.to_k), dense(cross.to_v)
        self.register_buffer("text_query_norm", cross.norm_q.weight.detach().float())
        self.register_buffer("text_key_norm", cross.norm_k.weight.detach().float())
        self.up, self.down = dense(block.ffn.net[0].proj), dense(block.ffn.net[2])

    def text_keys_values(self, text: Tensor) -> KeysValues:
        key, value = rms_norm(self.text_key(text), self.text_key_norm, self.eps[3]), self.text_value(text)
        return self._split(key), self._split(value)

    def forward(
        self, x: Tensor, modulations: tuple[Tensor, ...], rotary: Rotary, text: KeysValues, past: KeysValues | None, kv_only: bool
    ) -> tuple[Tensor, KeysValues]:
        """modulations: (6, D) of all tokens, or of the clean and of the noisy ones. Returns the output, and the tokens' keys and values."""

        def rows(index: int) -> Tensor:
            if len(modulations) == 1:
                return modulations[0][index]
            parts = zip(modulations, (self.clean, self.noisy), strict=True)
            return torch.cat([modulation[index].expand(1, count, self.width) for modulation, count in parts], dim=1)

        normed = functional.layer_norm(x, (self.width,), eps=self.eps[0]) * (1 + rows(1)) + rows(0)
        query, key, value = self.qkv(normed).split(self.width, dim=-1)
        key, value = rotated(self._split(rms_norm(key, self.key_norm, self.eps[2])), rotary), self._split(value)
        own = key, value
        if kv_only:
            return x, own
        query = rotated(self._split(rms_norm(query, self.query_norm, self.eps[2])), rotary)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = x + self.out(self._attend(query, key, value)) * rows(2)
        query = self._split(rms_norm(self.text_query(self.norm2(x)), self.text_query_norm, self.eps[3]))
        x = x + self.text_out(self._attend(query, *text))
        normed = functional.layer_norm(x, (self.width,), eps=self.eps[1]) * (1 + rows(4)) + rows(3)
        x = x + self.down(functional.gelu(self.up(normed), approximate="tanh")) * rows(5)
        return x, own

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (1, h, N, head_dim)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """Returns x (1, h, N, head_dim) rotated; the pairs are (i, i + head_dim / 2)."""
    cosines, sines = rotary[0].transpose(1, 2), rotary[1].transpose(1, 2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)


def halves(width: int, heads: int) -> Tensor:
    """Returns the order of channels that puts the even ones of each head before the odd ones."""
    return torch.arange(width).view(heads, -1, 2).transpose(1, 2).flatten()


def dense(linear: Any, order: Tensor | None = None) -> nn.Linear:
    """Returns a float32 copy of a linear, INT8 dequantized exactly; `order` selects its output channels."""
    weight = linear.weight.detach().float()
    if isinstance(linear, Int8Linear):
        weight = weight * linear.weight_scale[:, None]
    bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()
    if order is not None:
        weight, bias = weight[order], bias[order]
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return made


def joined(*linears: nn.Linear) -> nn.Linear:
    """Returns one linear with the outputs of all."""
    made = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears))
    made.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]), requires_grad=False)
    made.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    return made
