"""Loaders on networks of the real architecture with random weights: original and transformers' files agree; other networks are refused."""

import math
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn import functional

from moworld.evaluation import vbench_networks as networks
from moworld.evaluation.vbench_networks import Absent


def original_dino(hidden=768, layers=12, side=14, patch=16, seed=0):
    """Returns a checkpoint with the names of DINO's code."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.05 * torch.randn(*shape, generator=generator)

    state = {"cls_token": draw(1, 1, hidden), "pos_embed": draw(1, side * side + 1, hidden)}
    state |= {"patch_embed.proj.weight": draw(hidden, 3, patch, patch), "patch_embed.proj.bias": draw(hidden)}
    for layer in range(layers):
        at = f"blocks.{layer}."
        for name, shape in (
            ("attn.qkv", (3 * hidden, hidden)),
            ("attn.proj", (hidden, hidden)),
            ("mlp.fc1", (4 * hidden, hidden)),
            ("mlp.fc2", (hidden, 4 * hidden)),
        ):
            state |= {f"{at}{name}.weight": draw(*shape), f"{at}{name}.bias": draw(shape[0])}
        for name in ("norm1", "norm2"):
            state |= {f"{at}{name}.weight": 1 + draw(hidden), f"{at}{name}.bias": draw(hidden)}
    return state | {"norm.weight": 1 + draw(hidden), "norm.bias": draw(hidden)}


def dino_by_hand(state, pixels, heads, layers, patch=16):
    """Returns the class token of one image (3, H, W), by DINO's paper and code."""
    hidden = state["cls_token"].shape[-1]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    tokens = []
    for row in range(rows):
        for column in range(columns):
            tile = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append(state["patch_embed.proj.weight"].flatten(1) @ tile.flatten() + state["patch_embed.proj.bias"])
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    grid = state["pos_embed"][0, 1:].T.reshape(1, hidden, side, side)
    if (rows, columns) != (side, side):
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = functional.interpolate(grid, scale_factor=scale, mode="bicubic")
    positions = torch.cat((state["pos_embed"][0, :1], grid[0].flatten(1).T))
    x = torch.cat((state["cls_token"][0], torch.stack(tokens))) + positions
    for layer in range(layers):
        at = f"blocks.{layer}."
        queries, keys, values = linear(norm(x, f"{at}norm1"), f"{at}attn.qkv").reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        weights = (queries @ keys.transpose(1, 2) / math.sqrt(hidden // heads)).softmax(-1)
        x = x + linear((weights @ values).transpose(0, 1).reshape(len(x), hidden), f"{at}attn.proj")
        inner = linear(norm(x, f"{at}norm2"), f"{at}mlp.fc1")
        x = x + linear(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))), f"{at}mlp.fc2")
    return norm(x, "norm")[0]


@pytest.mark.parametrize("size", [(64, 64), (64, 113), (100, 64)])
def test_a_small_vit_equals_dino_by_hand(size):
    from transformers import ViTConfig, ViTModel

    state = original_dino(hidden=24, layers=2, side=4)
    config = ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=64, patch_size=16)
    model = ViTModel(config, add_pooling_layer=False)
    model.load_state_dict(networks.dino_state(state))
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = networks.dino_function(model)(pixels)
    expected = torch.stack([dino_by_hand(state, image, heads=3, layers=2) for image in pixels])
    assert torch.allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_full_size_dino_is_equal_from_both_file_formats(tmp_path):
    from transformers import ViTConfig, ViTModel

    state = original_dino()
    (tmp_path / "a" / "dino_model").mkdir(parents=True)
    torch.save(state, tmp_path / "a" / "dino_model" / "dino_vitbase16_pretrain.pth")
    model = ViTModel(ViTConfig(**networks.DINO_CONFIG, layer_norm_eps=1e-12), add_pooling_layer=False)
    model.load_state_dict(networks.dino_state(state))
    model.save_pretrained(tmp_path / "b" / "dino_model")
    pixels = torch.randn(1, 3, 224, 398, generator=torch.Generator().manual_seed(2))
    original = networks.load_dino(tmp_path / "a")(pixels)
    assert original.shape == (1, 768)
    assert np.allclose(original, networks.load_dino(tmp_path / "b")(pixels), atol=1e-5)
    assert np.allclose(original[0], dino_by_hand(state, pixels[0], heads=12, layers=12).numpy(), atol=2e-3)


@pytest.mark.slow
def test_full_size_clip_with_the_laion_head_equals_transformers(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**networks.CLIP_L_CONFIG)).eval()
    model.save_pretrained(tmp_path / "clip_model" / "clip-vit-large-patch14")
    head = {"weight": torch.randn(1, 768), "bias": torch.randn(1)}
    at = tmp_path / "aesthetic_model" / "emb_reader" / "sa_0_4_vit_l_14_linear.pth"
    at.parent.mkdir(parents=True)
    torch.save(head, at)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        features = model(pixel_values=pixels).image_embeds
    expected = (features / features.norm(dim=-1, keepdim=True)) @ head["weight"].T + head["bias"]
    assert np.allclose(networks.load_aesthetics(tmp_path)(pixels), expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_full_size_clip_b_returns_the_projected_embedding(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**networks.CLIP_B_CONFIG)).eval()
    model.save_pretrained(tmp_path / "clip_model" / "clip-vit-base-patch32")
    pixels = torch.randn(11, 3, 224, 224)  # more than one batch
    with torch.inference_mode():
        expected = model(pixel_values=pixels).image_embeds
    assert np.allclose(networks.load_clip_b(tmp_path)(pixels), expected.numpy(), atol=1e-4)


LOADERS = {
    "dino": networks.load_dino,
    "clip": networks.load_clip_b,
    "aesthetic": networks.load_aesthetics,
    "musiq": networks.load_musiq,
    "dreamsim": networks.load_dreamsim,
    "amt": networks.load_amt,
    "raft": networks.load_raft,
}


@pytest.mark.parametrize("name", LOADERS)
def test_missing_weights_are_reported_without_a_download(tmp_path, monkeypatch, name):
    def refused(*_):
        raise AssertionError("a loader opened a connection")

    monkeypatch.setattr("socket.socket.connect", refused)
    with pytest.raises(Absent, match="weights of"):
        LOADERS[name](tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 384}, "hidden_size 384 instead of 768"),
        ({"patch_size": 8}, "patch_size 8"),
        ({"num_hidden_layers": 6}, "num_hidden_layers 6"),
    ],
)
def test_a_different_network_is_refused_by_its_configuration(tmp_path, change, message):
    from transformers import ViTConfig

    ViTConfig(**{**networks.DINO_CONFIG, **change}).save_pretrained(tmp_path / "dino_model")
    with pytest.raises(Absent, match=message):
        networks.load_dino(tmp_path)


def test_missing_or_broken_weights_and_configurations_are_refused(tmp_path):
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig

    folder = tmp_path / "clip_model" / "clip-vit-base-patch32"
    CLIPVisionConfig(**networks.CLIP_B_CONFIG).save_pretrained(folder)
    with pytest.raises(Absent, match="cannot be read"):
        networks.load_clip_b(tmp_path)
    save_file({"visual_projection.weight": torch.zeros(512, 768)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Absent, match="lacks"):
        networks.load_clip_b(tmp_path)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(Absent, match="cannot be read"):
        networks.load_clip_b(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(Absent, match="cannot be read"):
        networks.load_clip_b(tmp_path)


def test_openais_archive_is_named_and_not_loaded(tmp_path):
    (tmp_path / "clip_model").mkdir()
    (tmp_path / "clip_model" / "ViT-B-32.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(Absent, match="is a pickle and is not loaded"):
        networks.load_clip_b(tmp_path)


class Harm:
    def __reduce__(self):
        return (open, ("harm.txt", "w"))


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dino_model").mkdir()
    torch.save({"cls_token": Harm()}, tmp_path / "dino_model" / "dino_vitbase16_pretrain.pth")
    with pytest.raises(Absent, match="not a file of tensors"):
        networks.load_dino(tmp_path)
    assert not (tmp_path / "harm.txt").exists()


def test_original_weights_of_a_different_size_are_refused(tmp_path):
    (tmp_path / "dino_model").mkdir()
    torch.save(original_dino(hidden=24, layers=2, side=4), tmp_path / "dino_model" / "dino_vitbase16_pretrain.pth")
    with pytest.raises(Absent, match="is not DINO"):
        networks.load_dino(tmp_path)


def test_a_head_of_a_different_width_is_refused(tmp_path):
    at = tmp_path / "aesthetic_model" / "emb_reader" / "sa_0_4_vit_l_14_linear.pth"
    at.parent.mkdir(parents=True)
    torch.save({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, at)
    with pytest.raises(Absent, match="is not the LAION aesthetic head"):
        networks.load_aesthetics(tmp_path)


def test_frames_are_interpolated_pairwise_at_full_size_and_truncated_to_8_bits():
    even = np.random.default_rng(0).integers(0, 256, (4, 21, 35, 3), dtype=np.uint8)
    seen = []

    def mean(one, other):
        seen.append(tuple(one.shape))
        return (one + other) / 2

    made = networks.interpolate(mean, "cpu", even)
    assert seen == [(1, 3, 32, 48)] * 3
    exact = (even[:-1].astype(np.float64) + even[1:]) / 2
    assert made.shape == (3, 21, 35, 3) and np.all((exact - made >= -1e-3) & (exact - made < 1.001))


def original_raft():
    """Returns a checkpoint with the names and shapes of RAFT's code."""
    generator, state = torch.Generator().manual_seed(0), {}

    def conv(name, out, into, rows, columns=0):
        state[f"module.{name}.weight"] = 0.02 * torch.randn(out, into, rows, columns or rows, generator=generator)
        state[f"module.{name}.bias"] = 0.02 * torch.randn(out, generator=generator)

    def batch_norm(name, width):
        for part, value in (("weight", 1.0), ("bias", 0.1), ("running_mean", 0.2), ("running_var", 1.5)):
            state[f"module.{name}.{part}"] = torch.full((width,), value)
        state[f"module.{name}.num_batches_tracked"] = torch.tensor(1)

    for encoder in ("fnet", "cnet"):
        norms = [("norm1", 64)]
        conv(f"{encoder}.conv1", 64, 3, 7)
        for layer, into, width in ((1, 64, 64), (2, 64, 96), (3, 96, 128)):
            for block in (0, 1):
                at = f"layer{layer}.{block}"
                conv(f"{encoder}.{at}.conv1", width, into if block == 0 else width, 3)
                conv(f"{encoder}.{at}.conv2", width, width, 3)
                norms += [(f"{at}.norm1", width), (f"{at}.norm2", width)]
                if block == 0 and layer > 1:
                    conv(f"{encoder}.{at}.downsample.0", width, into, 1)
                    norms += [(f"{at}.norm3", width), (f"{at}.downsample.1", width)]
        conv(f"{encoder}.conv2", 256, 128, 1)
        for name, width in norms if encoder == "cnet" else []:  # instance norms of fnet have no parameters
            batch_norm(f"cnet.{name}", width)
    for name, out, into, size in (
        ("convc1", 256, 324, 1),
        ("convc2", 192, 256, 3),
        ("convf1", 128, 2, 7),
        ("convf2", 64, 128, 3),
        ("conv", 126, 256, 3),
    ):
        conv(f"update_block.encoder.{name}", out, into, size)
    for gate in "zrq":
        conv(f"update_block.gru.conv{gate}1", 128, 384, 1, 5)
        conv(f"update_block.gru.conv{gate}2", 128, 384, 5, 1)
    conv("update_block.flow_head.conv1", 256, 128, 3)
    conv("update_block.flow_head.conv2", 2, 256, 3)
    conv("update_block.mask.0", 256, 128, 3)
    conv("update_block.mask.2", 576, 256, 1)
    return state


@pytest.mark.parametrize(("name", "file"), [("amt", "amt_model/amt-s.pth"), ("raft", "raft_model/models/raft-things.pth")])
def test_a_missing_package_is_reported(tmp_path, name, file):
    package = {"amt": "vbench", "raft": "torchvision"}[name]
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    (tmp_path / file).parent.mkdir(parents=True)
    torch.save({}, tmp_path / file)
    with pytest.raises(Absent, match=f"needs the package {package}"):
        LOADERS[name](tmp_path)


def test_rafts_file_loads_into_torchvisions_network(tmp_path):
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    at = tmp_path / "raft_model" / "models" / "raft-things.pth"
    at.parent.mkdir(parents=True)
    torch.save(original_raft(), at)
    expected = optical_flow.raft_large(weights=None).state_dict()
    assert {name: value.shape for name, value in networks.raft_names(networks.read_state(at)).items()} == {
        name: value.shape for name, value in expected.items()
    }
    image = torch.rand(1, 3, 128, 136) * 2 - 1
    assert networks.load_raft(tmp_path)(image, image).shape == (2, 128, 136)
    with pytest.raises(Absent, match="smaller than the 128 pixels"):
        networks.load_raft(tmp_path)(image[..., :64], image[..., :64])


def test_renamed_raft_names_are_distinct():
    state = {name.removeprefix("module."): value for name, value in original_raft().items()}
    renamed = networks.raft_names(state)
    assert len(renamed) == len(state) - sum(".norm3." in name for name in state)
    assert not any("fnet" in name or "cnet" in name or ".gru." in name or ".encoder." in name for name in renamed)


RAFT_NAMES = {
    "fnet.conv1.weight": "feature_encoder.convnormrelu.0.weight",
    "cnet.norm1.running_mean": "context_encoder.convnormrelu.1.running_mean",
    "fnet.layer1.0.conv1.weight": "feature_encoder.layer1.0.convnormrelu1.0.weight",
    "cnet.layer3.1.norm2.bias": "context_encoder.layer3.1.convnormrelu2.1.bias",
    "fnet.layer2.0.downsample.0.weight": "feature_encoder.layer2.0.downsample.0.weight",
    "cnet.layer2.0.downsample.1.weight": "context_encoder.layer2.0.downsample.1.weight",
    "fnet.conv2.bias": "feature_encoder.conv.bias",
    "update_block.encoder.convc2.weight": "update_block.motion_encoder.convcorr2.0.weight",
    "update_block.encoder.convf1.bias": "update_block.motion_encoder.convflow1.0.bias",
    "update_block.encoder.conv.weight": "update_block.motion_encoder.conv.0.weight",
    "update_block.gru.convz1.weight": "update_block.recurrent_block.convgru1.convz.weight",
    "update_block.gru.convq2.bias": "update_block.recurrent_block.convgru2.convq.bias",
    "update_block.flow_head.conv2.weight": "update_block.flow_head.conv2.weight",
    "update_block.mask.0.weight": "mask_predictor.convrelu.0.weight",
    "update_block.mask.2.bias": "mask_predictor.conv.bias",
}


@pytest.mark.parametrize("name", RAFT_NAMES)
def test_each_kind_of_raft_name_is_renamed(name):
    assert list(networks.raft_names({name: torch.zeros(1)})) == [RAFT_NAMES[name]]


def test_the_aliases_in_rafts_file_are_removed():
    assert networks.raft_names({"cnet.layer2.0.norm3.weight": torch.zeros(1)}) == {}
