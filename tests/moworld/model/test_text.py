"""Text encoders: fixed shape, zeroed padding, similarity by meaning, and missing weights."""

import json
from pathlib import Path

import pytest
import torch

from moworld.errors import InputError
from moworld.model.text import TextSettings, encoder_folder, make_text_encoder


@pytest.fixture(scope="module")
def minilm():
    return make_text_encoder(TextSettings(kind="minilm", length=12))


def test_embeddings_have_one_length_and_zeros_after_the_prompts_end(minilm):
    short, long = minilm.encode(["a hall", "a dark hall with a stone floor and a wide red door far away beyond it"])
    assert short.shape == long.shape == (12, 384) and short.dtype == torch.float32
    assert short[:4].abs().amin(-1).shape == (4,) and (short[:4].norm(dim=-1) > 0.1).all()  # [CLS] a hall [SEP]
    assert torch.equal(short[4:], torch.zeros(8, 384))
    assert (long.norm(dim=-1) > 0.1).all()  # cut to the length


def test_a_prompt_is_encoded_as_in_a_batch(minilm):
    together = minilm.encode(["a hall", "a yard under the open sky"])
    torch.testing.assert_close(minilm.encode(["a hall"])[0], together[0], rtol=0, atol=1e-5)


def test_embeddings_are_those_of_transformers(minilm):
    """Of prompts of many lengths in one batch, one longer than the encoder's, and with characters outside ASCII."""
    from transformers import AutoModel, AutoTokenizer

    folder = encoder_folder(TextSettings(kind="minilm", length=12))
    prompts = ["", "a hall", "Ein Flügel öffnet sich", "廊下 corridor", "a dark hall with a stone floor and a wide red door far away beyond it"]
    tokens = AutoTokenizer.from_pretrained(folder)(prompts, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state * tokens["attention_mask"][..., None]
    torch.testing.assert_close(minilm.encode(prompts), expected, rtol=0, atol=1e-5)


def test_similar_meanings_have_similar_embeddings(minilm):
    hall, corridor, lake = torch.nn.functional.normalize(
        minilm.encode(["a dark stone corridor", "a dim rocky hallway", "a lake in sunshine"]).sum(1), dim=-1
    )
    assert hall @ corridor > hall @ lake + 0.1


def test_umt5_gives_the_same_interface_from_a_folder(tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "hall": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    sizes = {"vocab_size": 4, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    UMT5EncoderModel(UMT5Config(**sizes)).save_pretrained(tmp_path)
    encoded = make_text_encoder(TextSettings(kind="umt5", length=5, path=str(tmp_path))).encode(["a hall"])
    assert encoded.shape == (1, 5, 16)
    assert (encoded[0, :2].norm(dim=-1) > 0).all() and torch.equal(encoded[0, 2:], torch.zeros(3, 16))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_the_code_of_a_model_folder_is_never_run_or_offered(tmp_path: Path, monkeypatch, file):
    test_umt5_gives_the_same_interface_from_a_folder(tmp_path)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n"
    (tmp_path / "own.py").write_text(code)
    settings = {"auto_map": {"AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]}, "model_type": "own", "tokenizer_class": "Own"}
    values = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**values, **settings}))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    try:
        make_text_encoder(TextSettings(kind="umt5", length=5, path=str(tmp_path)))
    except InputError as error:
        assert "\n" not in str(error) and str(tmp_path) in str(error)
    assert not asked and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"num_layers": ' + "9" * 5000 + "}", '{"d_model": "x"}', "{"], ids=range(5))
def test_a_damaged_encoder_folder_is_one_line(tmp_path: Path, content):
    test_umt5_gives_the_same_interface_from_a_folder(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        make_text_encoder(TextSettings(kind="umt5", length=5, path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_absent_weights_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"text\.path"):
        make_text_encoder(TextSettings(kind="umt5", length=5, path=str(tmp_path / "none")))
