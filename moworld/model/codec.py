"""A small causal video autoencoder with the interface of Wan's VAE: 4x in time, 8x8 in space, 16 channels; the first frame stands alone.

Frames are grouped as cameras are: the first one four times, then fours. A group becomes a token grid by pixel unshuffling; a linear map,
which training starts from the principal components of patches, carries most of it, and causal convolutions add what a linear map cannot.
The same network is evaluated on a whole clip or chunk by chunk with a carried cache, with one result.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from moworld.errors import InputError
from moworld.files import Pathlike, read_json, write_json
from moworld.settings import Settings

TIME, SPACE = 4, 8
PATCH = TIME * 3 * SPACE * SPACE  # values that one latent position stands for
WEIGHTS = "diffusion_pytorch_model.safetensors"

Cache = list[Tensor]


class CodecSettings(Settings):
    """Sizes of the codec and its training: `steps` of `batch` windows of `groups` latent frames."""

    latent_channels: int = 16
    hidden: int = 48
    blocks: int = 2
    steps: int = 300
    batch: int = 8
    groups: int = 3
    lr: float = 2e-3
    latent_noise: float = 0.05
    pca_patches: int = 20000


def group_frames(video: Tensor) -> Tensor:
    """(B, 3, T, H, W), T = 4 k + 1 -> patches (B, F, 768, h, w), F = k + 1: the first frame four times, then groups of four."""
    if video.shape[2] % TIME != 1:
        raise ValueError(f"{video.shape[2]} frames are not 4k + 1")
    video = torch.cat([video[:, :, :1].expand(-1, -1, TIME - 1, -1, -1), video], dim=2)
    groups = video.unflatten(2, (-1, TIME)).permute(0, 2, 3, 1, 4, 5)  # (B, F, 4, 3, H, W)
    return functional.pixel_unshuffle(groups.flatten(2, 3), SPACE)


def ungroup_frames(patches: Tensor) -> Tensor:
    """(B, F, 768, h, w) -> frames (B, 3, 4 F, H, W)."""
    frames = functional.pixel_shuffle(patches, SPACE).unflatten(2, (TIME, 3))
    return frames.flatten(1, 2).transpose(1, 2)


class CausalBlock(nn.Module):
    """A residual block over a latent frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: (B, F, D, h, w); before: (B, 1, D, h, w) last frame of the chunk before, None at the start -> output, and the next `before`."""
        past = torch.cat([torch.zeros_like(x[:, :1]) if before is None else before, x[:, :-1]], dim=1)
        joined = torch.cat([x, past], dim=2).flatten(0, 1)
        return x + self.conv2(functional.relu(self.conv1(joined))).view_as(x), x[:, -1:]


def run_blocks(blocks: nn.ModuleList, x: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
    """Run causal blocks in turn, each with its own entry of the cache."""
    following = []
    for index, block in enumerate(blocks):
        x, last = block(x, None if cache is None else cache[index])
        following.append(last)
    return x, following


class StreamingCodec(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] to latents (B, 16, F, H/8, W/8) of zero mean and unit variance a channel, and back."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, latent_channels: int = 16, hidden: int = 48, blocks: int = 2) -> None:
        super().__init__()
        self.config = {"latent_channels": latent_channels, "hidden": hidden, "blocks": blocks}
        self.linear_in, self.linear_out = nn.Linear(PATCH, latent_channels), nn.Linear(latent_channels, PATCH)
        self.encoder_in, self.encoder_out = nn.Conv2d(PATCH, hidden, 1), nn.Conv2d(hidden, latent_channels, 1)
        self.encoder_blocks = nn.ModuleList(CausalBlock(hidden) for _ in range(blocks))
        self.decoder_in = nn.Conv2d(latent_channels, hidden, 3, padding=1)
        self.decoder_blocks = nn.ModuleList(CausalBlock(hidden) for _ in range(blocks))
        self.up1, self.up2 = nn.Conv2d(hidden, 4 * hidden, 3, padding=1), nn.Conv2d(hidden, 2 * hidden, 3, padding=1)
        self.decoder_out = nn.Conv2d(hidden // 2, TIME * 3 * 4, 3, padding=1)
        self.register_buffer("latents_mean", torch.zeros(latent_channels))
        self.register_buffer("latents_std", torch.ones(latent_channels))
        for residual_end in (self.encoder_out, self.decoder_out):  # the start is the linear codec alone
            nn.init.zeros_(residual_end.weight)
            nn.init.zeros_(residual_end.bias)  # type: ignore[arg-type]

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W), T = 4 k + 1 -> (B, C, k + 1, h, w). Causal: a latent frame sees no later video frame."""
        return (self.encode_raw(group_frames(video)) - self._shape(self.latents_mean)) / self._shape(self.latents_std)

    def encode_raw(self, patches: Tensor) -> Tensor:
        """Patches (B, F, 768, h, w) -> latents before normalisation (B, C, F, h, w)."""
        batch, frames = patches.shape[:2]
        hidden = functional.relu(self.encoder_in(patches.flatten(0, 1))).unflatten(0, (batch, frames))
        hidden, _ = run_blocks(self.encoder_blocks, hidden, None)
        residual = self.encoder_out(hidden.flatten(0, 1)).unflatten(0, (batch, frames))
        linear = self.linear_in(patches.movedim(2, -1)).movedim(-1, 2)
        return (linear + residual).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) from the first latent frame on -> (B, 3, 4 (F - 1) + 1, H, W)."""
        return self.decode_chunk(latents, None)[0]

    def decode_chunk(self, latents: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Decode the latent frames that follow those the cache stands for.

        cache:   None at the start of a video, whose first latent frame is one video frame
        returns: (B, 3, T, H, W) in [-1, 1] with T = 4 F, or 4 (F - 1) + 1 at the start; and the cache for the next chunk
        """
        raw = latents * self._shape(self.latents_std) + self._shape(self.latents_mean)
        patches, following = self.decode_raw(raw, cache)
        frames = ungroup_frames(patches).clamp(-1, 1)
        return (frames[:, :, TIME - 1 :] if cache is None else frames), following

    def decode_raw(self, raw: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Unnormalised latents (B, C, F, h, w) -> patches (B, F, 768, h, w) and the next cache."""
        batch, frames = raw.shape[0], raw.shape[2]
        x = raw.transpose(1, 2)  # (B, F, C, h, w)
        hidden = functional.relu(self.decoder_in(x.flatten(0, 1))).unflatten(0, (batch, frames))
        hidden, following = run_blocks(self.decoder_blocks, hidden, cache)
        hidden = functional.pixel_shuffle(functional.relu(self.up1(hidden.flatten(0, 1))), 2)  # (B F, D, 2h, 2w)
        hidden = functional.pixel_shuffle(functional.relu(self.up2(hidden)), 2)  # (B F, D/2, 4h, 4w)
        residual = functional.pixel_shuffle(self.decoder_out(hidden), 2)  # (B F, 12, 8h, 8w)
        residual = functional.pixel_unshuffle(residual, SPACE).unflatten(0, (batch, frames))
        linear = self.linear_out(x.movedim(2, -1)).movedim(-1, 2)
        return linear + residual, following

    @staticmethod
    def _shape(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1, 1)

    def save_pretrained(self, folder: Pathlike) -> None:
        """Write config.json and the weights into a folder that exists or is made."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "config.json", {"_class_name": "StreamingCodec", **self.config})
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, Path(folder) / WEIGHTS)

    @staticmethod
    def from_pretrained(folder: Pathlike) -> "StreamingCodec":
        """Read what `save_pretrained` wrote. Raises InputError when it is not there, or the folder holds another autoencoder."""
        root = Path(folder)
        if not (root / WEIGHTS).is_file():
            raise InputError(root, WEIGHTS, "no such file", "a codec folder", "pass the folder that train_codec wrote")
        config, mend = read_json(root / "config.json"), "use the codec of the model's run"
        if (name := config.pop("_class_name", "")) != "StreamingCodec":
            raise InputError(root / "config.json", "_class_name", f"{name!r}, another autoencoder", "StreamingCodec", mend)
        try:
            codec = StreamingCodec(**config)
            codec.load_state_dict(load_file(root / WEIGHTS))
        except (
            TypeError,
            SafetensorError,
            RuntimeError,
        ) as error:  # sizes that do not exist, a damaged file, sizes that are not the file's
            raise InputError(root, WEIGHTS, str(error)[:200], "the weights of the codec that config.json describes", mend) from None
        return codec.eval()


@torch.no_grad()
def initialize_from_patches(codec: StreamingCodec, patches: Tensor) -> None:
    """Set the linear maps to the principal components of patches (n, 768), in place.

    The components are rotated by a Hadamard matrix and share one scale: all channels have the same variance, and the squared error of
    latents is, up to that scale, the squared error of pixels. Whitened components would weigh noise like structure.
    """
    channels = codec.config["latent_channels"]
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
    components, scale = vectors[:, -channels:].flip(1), values[-channels:].mean().sqrt()
    components = components * components.sum(0).sign()  # eigh leaves the signs open
    rotated = components @ hadamard(channels).double() / channels**0.5
    codec.linear_in.weight.copy_((rotated / scale).T)
    codec.linear_in.bias.copy_(-(rotated / scale).T @ mean.double())
    codec.linear_out.weight.copy_(rotated * scale)
    codec.linear_out.bias.copy_(mean)


def hadamard(size: int) -> Tensor:
    """Sylvester's Hadamard matrix (size, size) of +1 and -1; size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
