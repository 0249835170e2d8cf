"""The networks of VBench's scores, loaded from local files: each loader gives a function from prepared frames to features or scores.

Nothing is fetched, no pickle is run, and no network stands in for another: what is missing or is not the named network raises `Absent` with
the reason. Where weights lie is VBench's cache folder; two of its files are TorchScript archives, which are pickles, so CLIP is read from a
Diffusers-style folder (config.json, model.safetensors) beside them. Packages that MoWorld does not need itself are imported here, late.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.evaluation.vbench_frames import padded

Array = NDArray[np.float32]
Features = Callable[[Tensor], Array]
BATCH = 8  # frames at once through a transformer

DINO = "DINO ViT-B/16"
DINO_CONFIG: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16,
               "image_size": 224, "hidden_act": "gelu", "qkv_bias": True}  # fmt: skip
CLIP_B = "CLIP ViT-B/32"
CLIP_B_CONFIG: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 32,
                 "image_size": 224, "projection_dim": 512, "hidden_act": "quick_gelu"}  # fmt: skip
CLIP_L = "CLIP ViT-L/14"
CLIP_L_CONFIG: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "patch_size": 14,
                 "image_size": 224, "projection_dim": 768, "hidden_act": "quick_gelu"}  # fmt: skip
DREAMSIM_FILES = ("dino_vitb16_pretrain.pth", "open_clip_vitb16_pretrain.pth.tar", "clip_vitb16_pretrain.pth.tar", "ensemble_lora")


class Absent(Exception):
    """A network that is not here: the text is the reason that stands where its score would."""


def load_dino(cache: Path, device: str = "cpu") -> Features:
    """DINO ViT-B/16: (T, 3, h, w) -> (T, 768), the class token (SC, I2V-S).

    From dino_model/ with config.json and model.safetensors, or from the original dino_model/dino_vitbase16_pretrain.pth.
    """
    from transformers import ViTConfig, ViTModel

    folder, original = cache / "dino_model", cache / "dino_model" / "dino_vitbase16_pretrain.pth"
    if (folder / "config.json").is_file():
        model = _from_folder(ViTModel, folder, DINO, DINO_CONFIG, add_pooling_layer=False)
    elif original.is_file():
        model = ViTModel(ViTConfig(**DINO_CONFIG), add_pooling_layer=False)
        _load(model, dino_state(read_state(original)), original, DINO)
    else:
        raise Absent(f"weights of {DINO} are neither at {original} nor in {folder}/ (config.json, model.safetensors)")
    return partial(_batched, dino_function(model.to(device)), device)


def dino_function(model: Any) -> Callable[[Tensor], Tensor]:
    """A ViT of any size evaluated as DINO's own code does: norms with 1e-6 and DINO's way to stretch positions to frames of other shapes."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6  # transformers' configurations of DINO say 1e-12
    model.embeddings.interpolate_pos_encoding = partial(_dino_positions, model.embeddings)
    model.eval()
    return lambda pixels: model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def dino_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINO's own tensors under transformers' names; queries, keys and values lie in one tensor there and in three here."""
    renamed = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, values in zip("qkv", value.chunk(3), strict=True):
                renamed[_dino_name(name.replace("attn.qkv", f"attn.{part}_proj"))] = values
        else:
            renamed[_dino_name(name)] = value
    return renamed


def load_clip_b(cache: Path, device: str = "cpu") -> Features:
    """CLIP ViT-B/32's image embedding: (T, 3, 224, 224) -> (T, 512) (BC). From clip_model/clip-vit-base-patch32/."""
    return _load_clip(cache / "clip_model" / "clip-vit-base-patch32", CLIP_B, CLIP_B_CONFIG, device)


def load_aesthetics(cache: Path, device: str = "cpu") -> Features:
    """LAION's linear head on CLIP ViT-L/14: (T, 3, 224, 224) -> (T, 1), 0 to 10 (AQ).

    From clip_model/clip-vit-large-patch14/ and aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth.
    """
    at = cache / "aesthetic_model" / "emb_reader" / "sa_0_4_vit_l_14_linear.pth"
    if not at.is_file():
        raise Absent(f"the LAION aesthetic head is not at {at}")
    head = torch.nn.Linear(768, 1)
    _load(head, read_state(at), at, "the LAION aesthetic head")
    clip = _load_clip(cache / "clip_model" / "clip-vit-large-patch14", CLIP_L, CLIP_L_CONFIG, device)

    def scores(pixels: Tensor) -> Array:
        with torch.inference_mode():
            return head(torch.nn.functional.normalize(torch.from_numpy(clip(pixels)), dim=-1)).numpy()  # type: ignore[no-any-return]

    return scores


def load_raft(cache: Path, device: str = "cpu") -> Callable[[Tensor, Tensor], Array]:
    """RAFT as trained on FlyingThings: two images (1, 3, h, w) in -1 to 1 -> flow (2, h, w), pixels (DD), after 20 iterations.

    From raft_model/models/raft-things.pth; torchvision's port of those very weights, raft_model/raft_large_C_T_V1-*.pth, is read as well.
    """
    original = cache / "raft_model" / "models" / "raft-things.pth"
    found = [*([original] if original.is_file() else []), *sorted(cache.glob("raft_model/raft_large_C_T_V1*.pth"))]
    if not found:
        raise Absent(f"weights of RAFT are neither at {original} nor at {cache}/raft_model/raft_large_C_T_V1-*.pth")
    model = _imported("torchvision.models.optical_flow", "RAFT").raft_large(weights=None, progress=False)
    state = read_state(found[0])
    _load(model, raft_names(state) if found[0] == original else state, found[0], "RAFT")
    model.eval().to(device)

    def flow(one: Tensor, other: Tensor) -> Array:
        if min(one.shape[-2:]) < 128:
            raise Absent(f"frames of {one.shape[-1]}x{one.shape[-2]} are smaller than the 128 pixels that RAFT needs")
        with torch.inference_mode():
            return model(one.to(device), other.to(device), num_flow_updates=20)[-1][0].cpu().numpy()  # type: ignore[no-any-return]

    return flow


def load_musiq(cache: Path, device: str = "cpu") -> Features:
    """MUSIQ trained on SPAQ: (T, 3, h, w) in 0 to 1 -> (T, 1), 0 to 100 (IQ). From pyiqa_model/musiq_spaq_ckpt-358bb6af.pth."""
    at = cache / "pyiqa_model" / "musiq_spaq_ckpt-358bb6af.pth"
    if not at.is_file():
        raise Absent(f"weights of MUSIQ-SPAQ are not at {at}")
    model = _imported("pyiqa.archs.musiq_arch", "MUSIQ-SPAQ").MUSIQ(pretrained=False)
    _load(model, read_state(at), at, "MUSIQ-SPAQ")
    model.eval().to(device)

    def scores(pixels: Tensor) -> Array:
        with torch.inference_mode():  # one frame at a time: the network's patches depend on the size
            return np.stack([model(frame[None].to(device)).reshape(1).cpu().numpy() for frame in pixels])

    return scores


def load_dreamsim(cache: Path, device: str = "cpu") -> Features:
    """DreamSim's ensemble: (T, 3, 224, 224) in 0 to 1 -> (T, D) (I2V-B). From dreamsim_cache/, with every file the package would fetch."""
    folder = cache / "dreamsim_cache"
    missing = [name for name in DREAMSIM_FILES if not (folder / name).exists()]
    if missing:
        raise Absent(f"weights of DreamSim are not in {folder}: {', '.join(missing)}")
    model, _ = _imported("dreamsim", "DreamSim").dreamsim(pretrained=True, device=device, cache_dir=str(folder))
    return partial(_batched, model.embed, device)


def load_amt(cache: Path, device: str = "cpu") -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """AMT-S: even frames (n, H, W, 3) uint8 -> the frames half-way between neighbours (n - 1, H, W, 3) (MS).

    The network is the package `vbench`'s; weights from amt_model/amt-s.pth. Frames are never made smaller, as VBench does on small GPUs.
    """
    at = cache / "amt_model" / "amt-s.pth"
    if not at.is_file():
        raise Absent(f"weights of AMT-S are not at {at}")
    model = _imported("vbench.third_party.amt.networks.AMT-S", "AMT-S").Model(corr_radius=3, corr_lvls=4, num_flows=3)
    state = read_state(at)
    _load(model, state.get("state_dict", state), at, "AMT-S")
    model.eval().to(device)
    return partial(interpolate, lambda a, b: model(a, b, torch.full((1, 1, 1, 1), 0.5, device=a.device), eval=True)["imgt_pred"], device)


def interpolate(between: Callable[[Tensor, Tensor], Tensor], device: str, even: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half-way frames of an interpolator on 0 to 1 that wants sides a multiple of 16; back to 8 bits by cutting, not rounding."""
    images, (rows, columns) = padded(torch.from_numpy(even).permute(0, 3, 1, 2).float() / 255, 16)
    made = []
    with torch.inference_mode():
        for one, other in pairwise(images):
            image = between(one[None].to(device), other[None].to(device))[0, :, rows, columns]
            made.append((image * 255).clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
    return np.stack(made)


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a PyTorch file, `module.` left away. Raises Absent for anything that holds more than tensors and plain values."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes provoke; the reason is the first line of it
        raise Absent(f"{path} is not a file of tensors: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict):
        raise Absent(f"{path} holds {type(state).__name__}, not tensors by name")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def raft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """RAFT's own names to torchvision's; the aliases norm3 of the down-sampling branches are dropped."""
    pairs = (("update_block.encoder.conv.", "update_block.motion_encoder.conv.0."), ("update_block.flow_head.", "update_block.flow_head."),
             ("update_block.mask.0.", "mask_predictor.convrelu.0."), ("update_block.mask.2.", "mask_predictor.conv."))  # fmt: skip
    renamed = {}
    for name, value in state.items():
        if ".norm3." in name:
            continue
        new = next((name.replace(old, to) for old, to in pairs if name.startswith(old)), name)
        if new.startswith("update_block.encoder."):  # convc1 -> convcorr1.0, convf1 -> convflow1.0
            kind, number, rest = new[25], new[26], new[27:]
            new = f"update_block.motion_encoder.conv{'corr' if kind == 'c' else 'flow'}{number}.0{rest}"
        elif new.startswith("update_block.gru."):  # convz1 -> convgru1.convz
            gate, number, rest = new[17:22], new[22], new[23:]
            new = f"update_block.recurrent_block.convgru{number}.{gate}{rest}"
        elif new.startswith(("fnet.", "cnet.")):
            new = _raft_encoder_name(new)
        renamed[new] = value
    return renamed


def _raft_encoder_name(name: str) -> str:
    whole, *parts = name.split(".")
    encoder = "feature_encoder" if whole == "fnet" else "context_encoder"
    if parts[0].startswith("layer"):
        layer, block, part, *rest = parts
        if part.startswith(("conv", "norm")):
            part = f"convnormrelu{part[4]}.{0 if part.startswith('conv') else 1}"
        return ".".join((encoder, layer, block, part, *rest))
    part = {"conv1": "convnormrelu.0", "norm1": "convnormrelu.1", "conv2": "conv"}.get(parts[0], parts[0])
    return ".".join((encoder, part, *parts[1:]))


def _load_clip(folder: Path, name: str, config: dict[str, Any], device: str) -> Features:
    from transformers import CLIPVisionModelWithProjection

    if not (folder / "config.json").is_file():
        archive = {CLIP_B: "ViT-B-32.pt", CLIP_L: "ViT-L-14.pt"}[name]
        there = " (OpenAI's archive beside it is a pickle and is not loaded)" if (folder.parent / archive).exists() else ""
        raise Absent(f"weights of {name} are not in {folder}/ (config.json, model.safetensors){there}")
    model = _from_folder(CLIPVisionModelWithProjection, folder, name, config).to(device)
    return partial(_batched, lambda pixels: model(pixel_values=pixels).image_embeds, device)


def _from_folder(kind: Any, folder: Path, name: str, wanted: dict[str, Any], **settings: Any) -> Any:
    """A transformers model whose configuration is the named network's and whose every weight is in the folder's safetensors."""
    from safetensors import SafetensorError

    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        different = {key: getattr(config, key, None) for key, value in wanted.items() if getattr(config, key, None) != value}
        if different:
            told = ", ".join(f"{key} {found} where {wanted[key]} is meant" for key, found in different.items())
            raise Absent(f"{folder} is not {name}: {told}")
        model, report = kind.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **settings
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Absent(f"{name} cannot be read from {folder}: {str(error).splitlines()[0]}") from None
    if missing := sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"])):
        raise Absent(f"{folder} lacks {len(missing)} weights of {name}, first {missing[0]}")
    return model.eval()


def _load(model: torch.nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise Absent(f"{path} is not {name}: {' '.join(str(error).split())[:160]}") from None


def _imported(module: str, network: str) -> Any:
    """A package that MoWorld does not need itself; one that is missing or broken is a reason, not an error."""
    import importlib

    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Absent(f"{network} needs the package {module.partition('.')[0]}: {str(error).splitlines()[0]}") from None


def _batched(function: Callable[[Tensor], Tensor], device: str, pixels: Tensor) -> Array:
    with torch.inference_mode():
        return torch.cat([function(part.to(device)).float().cpu() for part in pixels.split(BATCH)]).numpy()


def _dino_positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """DINO's positions for frames of another shape: bicubic with a scale a tenth of a patch too large, which is part of its features."""
    positions = embeddings.position_embeddings
    side = round((positions.shape[1] - 1) ** 0.5)
    if tokens.shape[1] == positions.shape[1] and height == width:
        return positions  # type: ignore[no-any-return]
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = [(length // embeddings.patch_size + 0.1) / side for length in (height, width)]
    stretched = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat((positions[:, :1], stretched.flatten(2).transpose(1, 2)), dim=1)


def _dino_name(name: str) -> str:
    """DINO's own names to those of transformers' ViT."""
    pairs = (("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"), ("blocks.", "layers."),
             ("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("norm.", "layernorm."))  # fmt: skip
    for old, new in pairs:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in ((".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."), (".attn.proj.", ".attention.o_proj."),
                     (".attn.", ".attention.")):  # fmt: skip
        name = name.replace(old, new)
    return name
