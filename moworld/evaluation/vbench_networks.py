"""The networks of VBench's scores, loaded from local files: each loader returns a function from prepared frames to features or scores.

Nothing is downloaded, no pickle is executed, and no network replaces another: a missing or different network raises `Absent` with the
reason. Weights are in VBench's cache folder. Two of its files are TorchScript archives, which are pickles, so CLIP is read from a
Diffusers-style folder (config.json, model.safetensors) beside them. Packages outside MoWorld's requirements are imported inside functions.
"""

import re
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
BATCH = 8  # frames in one forward pass of a transformer

DINO = "DINO ViT-B/16"
DINO_CONFIG: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16,
               "image_size": 224, "hidden_act": "gelu", "qkv_bias": True}  # fmt: skip
CLIP_B = "CLIP ViT-B/32"
CLIP_B_CONFIG: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 32,
                 "image_size": 224, "projection_dim": 512, "hidden_act": "quick_gelu"}  # fmt: skip
CLIP_L = "CLIP ViT-L/14"
CLIP_L_CONFIG: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "patch_size": 14,
                 "image_size": 224, "projection_dim": 768, "hidden_act": "quick_gelu"}  # fmt: skip
DINO_NAMES = (  # names of DINO's code -> names of transformers' ViT
    (r"^cls_token", "embeddings.cls_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
)
RAFT_NAMES = (  # names of RAFT's code -> torchvision's names
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"_encoder\.conv1\.", "_encoder.convnormrelu.0."),
    (r"_encoder\.norm1\.", "_encoder.convnormrelu.1."),
    (r"_encoder\.conv2\.", "_encoder.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    (r"\.encoder\.convc(\d)\.", r".motion_encoder.convcorr\1.0."),
    (r"\.encoder\.convf(\d)\.", r".motion_encoder.convflow\1.0."),
    (r"\.encoder\.conv\.", ".motion_encoder.conv.0."),
    (r"\.gru\.(conv[zrq])(\d)\.", r".recurrent_block.convgru\2.\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)
DREAMSIM_FILES = ("dino_vitb16_pretrain.pth", "open_clip_vitb16_pretrain.pth.tar", "clip_vitb16_pretrain.pth.tar", "ensemble_lora")


class Absent(Exception):
    """A network is not available; the text is the reason, shown instead of its score."""


def load_dino(cache: Path, device: str = "cpu") -> Features:
    """Loads DINO ViT-B/16: (T, 3, h, w) -> (T, 768), the class token (SC, I2V-S).

    From dino_model/ with config.json and model.safetensors, or from the original dino_model/dino_vitbase16_pretrain.pth.
    """
    from transformers import ViTConfig, ViTModel

    folder, original = cache / "dino_model", cache / "dino_model" / "dino_vitbase16_pretrain.pth"
    if (folder / "config.json").is_file():
        model = _from_folder(ViTModel, folder, DINO, DINO_CONFIG, add_pooling_layer=False)
    elif original.is_file():
        model = ViTModel(ViTConfig(**DINO_CONFIG), add_pooling_layer=False)
        _load(model, original, DINO, dino_state)
    else:
        raise Absent(f"weights of {DINO} are neither at {original} nor in {folder}/ (config.json, model.safetensors)")
    return partial(_batched, dino_function(model.to(device)), device)


def dino_function(model: Any) -> Callable[[Tensor], Tensor]:
    """Returns a ViT of any size with the settings of DINO's code: norms with eps 1e-6, DINO's interpolation of position embeddings."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6  # 1e-12 in transformers' configurations of DINO
    model.embeddings.interpolate_pos_encoding = partial(_dino_positions, model.embeddings)
    model.eval()
    return lambda pixels: model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def dino_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns DINO's tensors under transformers' names, with queries, keys and values split into three tensors."""
    renamed = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, values in zip("qkv", value.chunk(3), strict=True):
                renamed[_renamed(name.replace("attn.qkv", f"attn.{part}_proj"), DINO_NAMES)] = values
        else:
            renamed[_renamed(name, DINO_NAMES)] = value
    return renamed


def load_clip_b(cache: Path, device: str = "cpu") -> Features:
    """Loads CLIP ViT-B/32's image embedding from clip_model/clip-vit-base-patch32/: (T, 3, 224, 224) -> (T, 512) (BC)."""
    return partial(_batched, _load_clip(cache / "clip_model" / "clip-vit-base-patch32", CLIP_B, CLIP_B_CONFIG, device), device)


def load_aesthetics(cache: Path, device: str = "cpu") -> Features:
    """Loads LAION's linear head on CLIP ViT-L/14: (T, 3, 224, 224) -> (T, 1), 0 to 10 (AQ).

    From clip_model/clip-vit-large-patch14/ and aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth.
    """
    head = torch.nn.Linear(768, 1)
    _load(head, cache / "aesthetic_model" / "emb_reader" / "sa_0_4_vit_l_14_linear.pth", "the LAION aesthetic head")
    clip = _load_clip(cache / "clip_model" / "clip-vit-large-patch14", CLIP_L, CLIP_L_CONFIG, device)
    head.to(device)
    return partial(_batched, lambda pixels: head(torch.nn.functional.normalize(clip(pixels).float(), dim=-1)), device)


def load_raft(cache: Path, device: str = "cpu") -> Callable[[Tensor, Tensor], Array]:
    """Loads RAFT of FlyingThings: two images (1, 3, h, w) in -1 to 1 -> flow (2, h, w) in pixels (DD), after 20 iterations.

    From raft_model/models/raft-things.pth, or torchvision's port of the same weights, raft_model/raft_large_C_T_V1-*.pth.
    """
    original = cache / "raft_model" / "models" / "raft-things.pth"
    found = [*([original] if original.is_file() else []), *sorted(cache.glob("raft_model/raft_large_C_T_V1*.pth"))]
    if not found:
        raise Absent(f"weights of RAFT are neither at {original} nor at {cache}/raft_model/raft_large_C_T_V1-*.pth")
    model = _imported("torchvision.models.optical_flow", "RAFT").raft_large(weights=None, progress=False)
    _load(model, found[0], "RAFT", raft_names if found[0] == original else dict)
    model.eval().to(device)

    def flow(one: Tensor, other: Tensor) -> Array:
        if min(one.shape[-2:]) < 128:
            raise Absent(f"frames of {one.shape[-1]}x{one.shape[-2]} are smaller than the 128 pixels that RAFT needs")
        with torch.inference_mode():
            return model(one.to(device), other.to(device), num_flow_updates=20)[-1][0].cpu().numpy()  # type: ignore[no-any-return]

    return flow


def load_musiq(cache: Path, device: str = "cpu") -> Features:
    """Loads MUSIQ-SPAQ from pyiqa_model/musiq_spaq_ckpt-358bb6af.pth: (T, 3, h, w) in 0 to 1 -> (T, 1), 0 to 100 (IQ)."""
    at = _existing(cache / "pyiqa_model" / "musiq_spaq_ckpt-358bb6af.pth", "MUSIQ-SPAQ")
    model = _imported("pyiqa.archs.musiq_arch", "MUSIQ-SPAQ").MUSIQ(pretrained=False)
    _load(model, at, "MUSIQ-SPAQ")
    model.eval().to(device)
    return partial(_batched, lambda frame: model(frame).reshape(1, 1), device, batch=1)  # the network's patches depend on the size


def load_dreamsim(cache: Path, device: str = "cpu") -> Features:
    """Loads DreamSim's ensemble from dreamsim_cache/, which must have all files: (T, 3, 224, 224) in 0 to 1 -> (T, D) (I2V-B)."""
    folder = cache / "dreamsim_cache"
    missing = [name for name in DREAMSIM_FILES if not (folder / name).exists()]
    if missing:
        raise Absent(f"weights of DreamSim are not in {folder}: {', '.join(missing)}")
    model, _ = _imported("dreamsim", "DreamSim").dreamsim(pretrained=True, device=device, cache_dir=str(folder))
    return partial(_batched, model.embed, device)


def load_amt(cache: Path, device: str = "cpu") -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Loads AMT-S: even frames (n, H, W, 3) uint8 -> the frames half-way between neighbours (n - 1, H, W, 3) (MS).

    The network is in the package `vbench`, the weights in amt_model/amt-s.pth. Frames are never reduced, unlike in VBench on small GPUs.
    """
    at = _existing(cache / "amt_model" / "amt-s.pth", "AMT-S")
    model = _imported("vbench.third_party.amt.networks.AMT-S", "AMT-S").Model(corr_radius=3, corr_lvls=4, num_flows=3)
    _load(model, at, "AMT-S", lambda state: state.get("state_dict", state))
    model.eval().to(device)
    return partial(interpolate, lambda a, b: model(a, b, torch.full((1, 1, 1, 1), 0.5, device=a.device), eval=True)["imgt_pred"], device)


def interpolate(between: Callable[[Tensor, Tensor], Tensor], device: str, even: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the half-way frames of an interpolator on 0 to 1 with sides a multiple of 16; converted to 8 bits by truncation."""
    images, (rows, columns) = padded(torch.from_numpy(even).permute(0, 3, 1, 2).float() / 255, 16)
    made = []
    with torch.inference_mode():
        for one, other in pairwise(images):
            image = between(one[None].to(device), other[None].to(device))[0, :, rows, columns]
            made.append((image * 255).clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
    return np.stack(made)


def read_state(path: Path) -> dict[str, Any]:
    """Returns the tensors of a PyTorch file without the prefix `module.`; raises Absent if it has more than tensors and plain values."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of any type for broken files
        raise Absent(f"{path} is not a file of tensors: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict):
        raise Absent(f"{path} contains {type(state).__name__}, not tensors by name")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def raft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts RAFT's names to torchvision's, without the aliases norm3 of the down-sampling branches."""
    return {_renamed(name, RAFT_NAMES): value for name, value in state.items() if ".norm3." not in name}


def _load_clip(folder: Path, name: str, config: dict[str, Any], device: str) -> Callable[[Tensor], Tensor]:
    from transformers import CLIPVisionModelWithProjection

    if not (folder / "config.json").is_file():
        archive = {CLIP_B: "ViT-B-32.pt", CLIP_L: "ViT-L-14.pt"}[name]
        note = " (OpenAI's archive beside it is a pickle and is not loaded)" if (folder.parent / archive).exists() else ""
        raise Absent(f"weights of {name} are not in {folder}/ (config.json, model.safetensors){note}")
    model = _from_folder(CLIPVisionModelWithProjection, folder, name, config).to(device)
    return lambda pixels: model(pixel_values=pixels).image_embeds  # type: ignore[no-any-return]


def _from_folder(kind: Any, folder: Path, name: str, expected: dict[str, Any], **settings: Any) -> Any:
    """Returns a transformers model; raises Absent if its configuration is not the named network's or a weight is missing."""
    from safetensors import SafetensorError

    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        different = {key: getattr(config, key, None) for key, value in expected.items() if getattr(config, key, None) != value}
        if different:
            details = ", ".join(f"{key} {found} instead of {expected[key]}" for key, found in different.items())
            raise Absent(f"{folder} is not {name}: {details}")
        model, report = kind.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **settings
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Absent(f"{name} cannot be read from {folder}: {str(error).splitlines()[0]}") from None
    if missing := sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"])):
        raise Absent(f"{folder} lacks {len(missing)} weights of {name}, first {missing[0]}")
    return model.eval()


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        raise Absent(f"weights of {name} are not at {path}")
    return path


def _load(model: torch.nn.Module, path: Path, name: str, convert: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
    """Loads a PyTorch file into `model`; raises Absent if it is missing or not of the network `name`."""
    try:
        model.load_state_dict(convert(read_state(_existing(path, name))))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise Absent(f"{path} is not {name}: {' '.join(str(error).split())[:160]}") from None


def _imported(module: str, network: str) -> Any:
    """Imports an optional package; raises Absent if it is missing or broken."""
    import importlib

    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Absent(f"{network} needs the package {module.partition('.')[0]}: {str(error).splitlines()[0]}") from None


def _batched(function: Callable[[Tensor], Tensor], device: str, pixels: Tensor, batch: int = BATCH) -> Array:
    with torch.inference_mode():
        return torch.cat([function(part.to(device)).float().cpu() for part in pixels.split(batch)]).numpy()


def _dino_positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """Returns DINO's position embeddings for frames of any shape: bicubic, with DINO's scale of a tenth of a patch too much."""
    positions = embeddings.position_embeddings
    side = round((positions.shape[1] - 1) ** 0.5)
    if tokens.shape[1] == positions.shape[1] and height == width:
        return positions  # type: ignore[no-any-return]
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = [(length // embeddings.patch_size + 0.1) / side for length in (height, width)]
    resized = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat((positions[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Returns the name after the regular expressions of all rules were replaced, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
