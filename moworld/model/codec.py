"""A small causal video autoencoder with the interface of Wan's VAE: 4x in time, 8x8 in space, 16 channels; the first frame is a group alone.

Frames are grouped like cameras: the first one four times, then four at a time. A group becomes a token grid by pixel unshuffling. A linear
map, initialised with the principal components of patches, codes most of it, and causal convolutions add a residual. With `warp` the decoder
adds a picture of the group moved by four flows, because most of what changes within a group is motion. A whole clip and its chunks,
decoded one by one with a cache, give the same result.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from moworld.errors import InputError, invalid_value
from moworld.files import Pathlike, read_json_object, write_json
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.settings import CodecSettings

TIME, SPACE = CODEC_GRID.temporal, CODEC_GRID.spatial
PATCH = TIME * 3 * SPACE * SPACE  # values of one latent position
FLOW_PIXELS = 4.0  # of a flow of 1: motion of many pixels from outputs near 1
WEIGHTS = "diffusion_pytorch_model.safetensors"

Cache = list[Tensor]
Activation = Callable[[Tensor], Tensor]


def group_frames(video: Tensor) -> Tensor:
    """Returns patches (B, F, 768, h, w) of video (B, 3, 4 k + 1, H, W), F = k + 1: the first frame four times, then groups of four.

    Raises InputError for another number of frames.
    """
    CODEC_GRID.num_latents(video.shape[2])  # raises unless 4 k + 1
    video = torch.cat([video[:, :, :1].expand(-1, -1, TIME - 1, -1, -1), video], dim=2)
    groups = video.unflatten(2, (-1, TIME)).permute(0, 2, 3, 1, 4, 5)  # (B, F, 4, 3, H, W)
    return functional.pixel_unshuffle(groups.flatten(2, 3), SPACE)


def ungroup_frames(patches: Tensor) -> Tensor:
    """Inverse of `group_frames`: (B, F, 768, h, w) -> (B, 3, 4 F, H, W), with the first frame four times."""
    frames = functional.pixel_shuffle(patches, SPACE).unflatten(2, (TIME, 3))
    return frames.flatten(1, 2).transpose(1, 2)


class CausalBlock(nn.Module):
    """A residual block over each latent frame and the previous one."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the output for x (B, F, D, h, w), and its last input frame (B, 1, D, h, w): `before` of the next chunk. None at the start."""
        past = torch.cat([torch.zeros_like(x[:, :1]) if before is None else before, x[:, :-1]], dim=1)
        joined = torch.cat([x, past], dim=2).flatten(0, 1)
        return x + self.conv2(self.activation(self.conv1(joined))).view_as(x), x[:, -1:]


def run_blocks(blocks: nn.ModuleList, x: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
    """Runs causal blocks in turn, each with its own entry of the cache; returns the output and the next cache."""
    following = []
    for index, block in enumerate(blocks):
        x, last = block(x, None if cache is None else cache[index])
        following.append(last)
    return x, following


def per_channel(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1, 1)."""
    return values.view(1, -1, 1, 1, 1)


def warped(picture: Tensor, flows: Tensor) -> Tensor:
    """Returns pictures (N, 3, H, W) moved by each of their flows (N, 2 T, H, W): (N, 3 T, H, W).

    A flow is an offset (x, y) in units of `FLOW_PIXELS` pixels, from a pixel to where its value is taken; outside the picture the
    border's value is taken.
    """
    count, _, height, width = picture.shape
    flows = flows.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2)  # (N, T, H, W, 2)
    y, x = torch.meshgrid(torch.arange(height, device=picture.device), torch.arange(width, device=picture.device), indexing="ij")
    centres = torch.stack([x, y], dim=-1).to(picture.dtype) + 0.5
    size = torch.tensor([width, height], dtype=picture.dtype, device=picture.device)
    grid = (centres + FLOW_PIXELS * flows) * 2 / size - 1  # in [-1, 1] over the picture
    repeated = picture[:, None].expand(-1, flows.shape[1], -1, -1, -1).flatten(0, 1)
    moved = functional.grid_sample(repeated, grid.flatten(0, 1), mode="bilinear", padding_mode="border", align_corners=False)
    return moved.view(count, -1, height, width)


class StreamingCodec(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] <-> latents (B, 16, F, H/8, W/8) with zero mean and unit variance per channel."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, latent_channels: int = 16, hidden: int = 48, blocks: int = 2, warp: bool = False) -> None:
        super().__init__()
        self.config = {"latent_channels": latent_channels, "hidden": hidden, "blocks": blocks, "warp": warp}
        self.activation: Activation = functional.silu if warp else functional.relu
        self.linear_in, self.linear_out = nn.Linear(PATCH, latent_channels), nn.Linear(latent_channels, PATCH)
        self.encoder_in, self.encoder_out = nn.Conv2d(PATCH, hidden, 1), nn.Conv2d(hidden, latent_channels, 1)
        self.encoder_blocks = nn.ModuleList(CausalBlock(hidden, self.activation) for _ in range(blocks))
        self.decoder_in = nn.Conv2d(latent_channels, hidden, 3, padding=1)
        self.decoder_blocks = nn.ModuleList(CausalBlock(hidden, self.activation) for _ in range(blocks))
        self.up1, self.up2 = nn.Conv2d(hidden, 4 * hidden, 3, padding=1), nn.Conv2d(hidden, 2 * hidden, 3, padding=1)
        self.decoder_out = nn.Conv2d(hidden // 2, TIME * 3 * 4, 3, padding=1)
        self.moved_out = nn.Conv2d(hidden // 2, 3 * 4 + 2 * TIME, 3, padding=1) if warp else None  # a picture, and a flow for each frame
        self.register_buffer("latents_mean", torch.zeros(latent_channels))
        self.register_buffer("latents_std", torch.ones(latent_channels))
        for residual_end in (self.encoder_out, self.decoder_out):  # at first the residuals are zero
            nn.init.zeros_(residual_end.weight)
            nn.init.zeros_(residual_end.bias)  # type: ignore[arg-type]
        if self.moved_out is not None:
            nn.init.normal_(self.moved_out.weight, std=1e-3)  # not zero: a flow gets no gradient from an empty picture
            nn.init.zeros_(self.moved_out.bias)  # type: ignore[arg-type]

    def encode(self, video: Tensor) -> Tensor:
        """Encodes (B, 3, T, H, W), T = 4 k + 1 -> (B, C, k + 1, h, w). Causal: a latent frame does not depend on later video frames."""
        return (self.encode_raw(group_frames(video)) - per_channel(self.latents_mean)) / per_channel(self.latents_std)

    def encode_raw(self, patches: Tensor) -> Tensor:
        """Encodes patches (B, F, 768, h, w) -> latents before normalisation (B, C, F, h, w)."""
        batch, frames = patches.shape[:2]
        hidden = self.activation(self.encoder_in(patches.flatten(0, 1))).unflatten(0, (batch, frames))
        hidden, _ = run_blocks(self.encoder_blocks, hidden, None)
        residual = self.encoder_out(hidden.flatten(0, 1)).unflatten(0, (batch, frames))
        linear = self.linear_in(patches.movedim(2, -1)).movedim(-1, 2)
        return (linear + residual).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes a whole video: (B, C, F, h, w) -> (B, 3, 4 (F - 1) + 1, H, W)."""
        return self.decode_chunk(latents, None)[0]

    def decode_chunk(self, latents: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Decodes the latent frames after those already decoded with the cache.

        cache:   None at the start of a video, whose first latent frame is one video frame
        returns: (B, 3, T, H, W) in [-1, 1] with T = 4 F, or 4 (F - 1) + 1 at the start; and the cache for the next chunk
        """
        raw = latents * per_channel(self.latents_std) + per_channel(self.latents_mean)
        patches, following = self.decode_raw(raw, cache)
        frames = ungroup_frames(patches).clamp(-1, 1)
        return (frames[:, :, TIME - 1 :] if cache is None else frames), following

    def decode_raw(self, raw: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Decodes unnormalised latents (B, C, F, h, w) -> patches (B, F, 768, h, w) and the next cache."""
        batch, frames = raw.shape[0], raw.shape[2]
        x = raw.transpose(1, 2)  # (B, F, C, h, w)
        hidden = self.activation(self.decoder_in(x.flatten(0, 1))).unflatten(0, (batch, frames))
        hidden, following = run_blocks(self.decoder_blocks, hidden, cache)
        hidden = functional.pixel_shuffle(self.activation(self.up1(hidden.flatten(0, 1))), 2)  # (B F, D, 2h, 2w)
        hidden = functional.pixel_shuffle(self.activation(self.up2(hidden)), 2)  # (B F, D/2, 4h, 4w)
        residual = functional.pixel_shuffle(self.decoder_out(hidden), 2)  # (B F, 12, 8h, 8w)
        if self.moved_out is not None:
            picture, flows = self.moved_out(hidden).split((12, 2 * TIME), dim=1)
            residual = residual + warped(functional.pixel_shuffle(picture, 2), functional.interpolate(flows, scale_factor=2, mode="bilinear"))
        residual = functional.pixel_unshuffle(residual, SPACE).unflatten(0, (batch, frames))
        linear = self.linear_out(x.movedim(2, -1)).movedim(-1, 2)
        return linear + residual, following

    def save_pretrained(self, folder: Pathlike) -> None:
        """Writes config.json and the weights into a folder, which is created if missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "config.json", {"_class_name": "StreamingCodec", **self.config})
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, Path(folder) / WEIGHTS)

    @staticmethod
    def from_pretrained(folder: Pathlike) -> "StreamingCodec":
        """Reads what `save_pretrained` wrote. Raises InputError if it is missing, or the folder holds another autoencoder."""
        root = Path(folder)
        if not (root / WEIGHTS).is_file():
            raise InputError(root, WEIGHTS, "no such file", "a codec folder", "pass the folder that train_codec wrote")
        config, fix = read_json_object(root / "config.json"), "use the codec of the model's run"
        if (name := config.pop("_class_name", "")) != "StreamingCodec":
            raise InputError(root / "config.json", "_class_name", f"{name!r}, another autoencoder", "StreamingCodec", fix)
        try:
            CodecSettings(**config)
            weights = load_file(root / WEIGHTS)
            with torch.device("meta"):  # sizes that differ from the file's are refused before anything is allocated
                StreamingCodec(**config).load_state_dict(weights, assign=True)
            codec = StreamingCodec(**config)
            codec.load_state_dict(weights)
        except ValidationError as error:
            raise invalid_value(root / "config.json", error, fix) from None
        except (TypeError, SafetensorError, RuntimeError) as error:  # unknown sizes, a damaged file, sizes that differ from the file's
            raise InputError(root, WEIGHTS, str(error)[:200], "the weights of the codec that config.json describes", fix) from None
        return codec.eval()


@torch.no_grad()
def initialize_from_patches(codec: StreamingCodec, patches: Tensor) -> None:
    """Sets the linear maps to the principal components of patches (n, 768), in place.

    The components are rotated by a Hadamard matrix and have one common scale. All channels then have the same variance, and the squared
    error of latents is proportional to that of pixels. Whitening would weight noise like structure.
    """
    channels = codec.config["latent_channels"]
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
    components, scale = vectors[:, -channels:].flip(1), values[-channels:].mean().sqrt()
    components = components * components.sum(0).sign()  # eigh does not fix the signs
    rotated = components @ hadamard(channels).double() / channels**0.5
    codec.linear_in.weight.copy_((rotated / scale).T)
    codec.linear_in.bias.copy_(-(rotated / scale).T @ mean.double())
    codec.linear_out.weight.copy_(rotated * scale)
    codec.linear_out.bias.copy_(mean)


def hadamard(size: int) -> Tensor:
    """Returns Sylvester's Hadamard matrix (size, size) of +1 and -1; size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
