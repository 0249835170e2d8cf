"""Import and export of published layouts, bit for bit, with the true key names; and invalid checkpoints."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.model.checkpoints import describe, export_model, find_experts, import_model
from moworld.model.checkpoints.layouts import DIFFUSERS, MOWORLD, WAN, from_diffusers, layout_of, to_diffusers
from moworld.model.text import TextSettings
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.model.world import WEIGHTS, ModelSettings, WorldConfig, WorldModel

SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "freq_dim": 32, "text_dim": 8}
CONFIG = WorldConfig(model=ModelSettings(**SIZES), text=TextSettings(kind="minilm", length=4), height=16, width=32, fps=16.0)
WAN_BLOCK = {
    "modulation", "norm3.weight", "norm3.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias",
    *(f"{a}.{n}.{w}" for a in ("self_attn", "cross_attn") for n in "qkvo" for w in ("weight", "bias")),
    *(f"{a}.norm_{n}.weight" for a in ("self_attn", "cross_attn") for n in "qk"),
}  # fmt: skip
WAN_TOP = {
    "patch_embedding.weight", "patch_embedding.bias", "head.modulation", "head.head.weight", "head.head.bias", "time_projection.1.weight",
    "time_projection.1.bias", *(f"{e}_embedding.{i}.{w}" for e in ("time", "text") for i in (0, 2) for w in ("weight", "bias")),
}  # fmt: skip


@functools.cache
def wan_weights(seed: int, adapter: bool = False, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Returns random weights of an expert with Wan's key names."""
    torch.manual_seed(seed)
    transformer = MoWorldTransformer3DModel(**CONFIG.model.transformer())
    state = {from_diffusers(key): torch.randn_like(value).mul(0.2).to(dtype) for key, value in transformer.state_dict().items()}
    state.pop("control_adapter.gate")
    return state if adapter else {key: value for key, value in state.items() if not key.startswith("control_adapter.")}


def write_sharded(folder: Path, weights: dict[str, torch.Tensor], count: int = 3) -> None:
    folder.mkdir(parents=True)
    keys, index = list(weights), {}
    for number in range(count):
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file({key: weights[key] for key in keys[number::count]}, folder / file)
        index |= dict.fromkeys(keys[number::count], file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for path in sorted(folder.glob("*.safetensors")) for key, value in load_file(path).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)


@pytest.fixture
def wan(tmp_path: Path) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    weights = {"high_noise_model": wan_weights(1), "low_noise_model": wan_weights(2)}
    for name, expert in weights.items():
        write_sharded(tmp_path / "wan" / name, expert)
    return tmp_path / "wan", weights


def test_our_wan_keys_are_wans_own():
    keys = set(wan_weights(0))
    assert {key for key in keys if not key.startswith("blocks.")} == WAN_TOP
    assert {key.removeprefix("blocks.1.") for key in keys if key.startswith("blocks.1.")} == WAN_BLOCK


def test_every_key_of_a14b_has_one_name_in_each_layout_and_the_model_is_wans():
    with torch.device("meta"):  # Wan2.2-I2V-A14B's sizes are the defaults
        ours = {key: tuple(value.shape) for key, value in MoWorldTransformer3DModel().state_dict().items()}
        theirs = {key: tuple(value.shape) for key, value in WanTransformer3DModel(in_channels=36).state_dict().items()}
    assert {key: shape for key, shape in ours.items() if not key.startswith("control_adapter.")} == theirs
    assert {"control_adapter.conv.weight", "control_adapter.residual_blocks.0.conv2.bias", "control_adapter.gate"} <= set(ours)
    assert sum(torch.Size(shape).numel() for shape in theirs.values()) == pytest.approx(14.29e9, rel=1e-3)
    renamed = {from_diffusers(key) for key in ours}
    assert len(renamed) == len(ours) and {to_diffusers(key) for key in renamed} == set(ours)
    assert not any("attn1" in key or "condition_embedder" in key or "proj_out" in key for key in renamed)
    assert (layout_of(list(theirs)), layout_of([from_diffusers(k) for k in theirs])) == (DIFFUSERS, WAN)
    assert layout_of([from_diffusers(key) for key in ours]) == MOWORLD


def test_wan_to_ours_and_back_is_bit_exact_and_the_adapter_starts_at_gate_0(wan, tmp_path):
    source, weights = wan
    report = import_model(str(source), tmp_path / "ours", CONFIG)
    assert report["layout"] == WAN and set(report["experts"]) == {"high", "low"}
    world = WorldModel.load(tmp_path / "ours")
    assert world.experts.high.control_adapter.gate.item() == 0 and world.experts.high.control_adapter.conv.weight.std() > 0
    export_model(tmp_path / "ours", tmp_path / "again", WAN)
    for name, expert in weights.items():
        assert same(read_all(tmp_path / "again" / name), expert)


@torch.no_grad()
@pytest.mark.parametrize("in_channels", [36, 16], ids=["i2v", "t2v"])
def test_imported_weights_give_diffusers_output_bit_for_bit(tmp_path, in_channels):
    torch.manual_seed(0)
    sizes = {key: value for key, value in CONFIG.model.transformer().items() if key not in ("camera_gate", "block_causal", "in_channels")}
    theirs = WanTransformer3DModel(**sizes, in_channels=in_channels).eval()
    ours = MoWorldTransformer3DModel(**sizes, in_channels=in_channels).eval()
    renamed = {from_diffusers(key): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({to_diffusers(key): value for key, value in renamed.items()}, strict=False)
    x, text = torch.randn(1, in_channels, 3, 4, 4), torch.randn(1, 5, 8)
    assert torch.equal(ours(x, torch.tensor([500.0]), text).sample, theirs(x, torch.tensor([500.0]), text).sample)


def test_the_published_base_is_one_expert_with_gate_1(tmp_path):
    weights = wan_weights(3, adapter=True, dtype=torch.float32)
    (tmp_path / "base").mkdir()
    save_file(weights, tmp_path / "base" / "high_noise_model.safetensors")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"dim": 48}))
    for source in ("base", "base/high_noise_model.safetensors"):
        assert import_model(str(tmp_path / source), tmp_path / "ours", CONFIG)["layout"] == MOWORLD
    world = WorldModel.load(tmp_path / "ours")
    assert world.experts.high.control_adapter.gate.item() == 1
    assert world.experts.at(0.1) is world.experts.at(1.0) and [name for name, _ in world.experts.named_experts()] == ["high"]
    assert world.experts.noise_range("high") == (0.0, 1.0)
    export_model(tmp_path / "ours", tmp_path / "again", MOWORLD)
    assert same(read_all(tmp_path / "again" / "high_noise_model"), weights)
    with pytest.raises(InputError, match="layout wan cannot store"):
        export_model(tmp_path / "ours", tmp_path / "other", WAN)


def test_diffusers_to_ours_and_back_is_bit_exact_in_small_shards(wan, tmp_path):
    source, _ = wan
    import_model(str(source), tmp_path / "one", CONFIG)
    export_model(tmp_path / "one", tmp_path / "two", DIFFUSERS, shard_bytes=20_000)
    shards = [load_file(path) for path in (tmp_path / "two" / "transformer").glob("*.safetensors")]
    assert len(shards) > 3 and all(len(held) == 1 or sum(value.nbytes for value in held.values()) <= 20_000 for held in shards)
    import_model(str(tmp_path / "two"), tmp_path / "three", CONFIG)
    assert sha256_tree(tmp_path / "three") == sha256_tree(tmp_path / "one")
    assert same(dict(WorldModel.load(tmp_path / "two").experts.state_dict()), dict(WorldModel.load(tmp_path / "one").experts.state_dict()))


def test_diffusers_itself_reads_what_is_written(wan, tmp_path):
    import_model(str(wan[0]), tmp_path / "ours", CONFIG)

    class Theirs(WanTransformer3DModel):
        _keep_in_fp32_modules = None  # with it, Diffusers asks for a library that is not needed here

    theirs = Theirs.from_pretrained(tmp_path / "ours" / "transformer")
    assert torch.equal(theirs.proj_out.weight, wan[1]["high_noise_model"]["head.head.weight"].float())


def test_a_uri_is_read_like_a_folder(wan, tmp_path):
    import fsspec

    source, _ = wan
    memory = fsspec.filesystem("memory")
    memory.put(str(source), "/bucket/wan", recursive=True)
    import_model("memory://bucket/wan", tmp_path / "remote", CONFIG)
    import_model(str(source), tmp_path / "local", CONFIG)
    assert sha256_tree(tmp_path / "remote") == sha256_tree(tmp_path / "local")


def test_a_checkpoint_is_described(wan):
    found = describe(str(wan[0]))["experts"]["low"]
    assert found["layout"] == WAN and found["dtypes"] == {"bfloat16": len(wan[1]["low_noise_model"])} and len(found["shards"]) == 3
    assert found["config"] == {"num_layers": 2, "width": 48, "in_channels": 36, "patch_size": [1, 2, 2], "out_channels": 16, "ffn_dim": 64,
                               "freq_dim": 32, "text_dim": 8}  # fmt: skip
    assert found["parameters"] == sum(value.numel() for value in wan[1]["low_noise_model"].values()) and found["adapter"] == "none"
    assert sum(group["parameters"] for group in found["groups"].values()) == found["parameters"]


def damage(wan, what: str) -> Path:
    source, weights = wan
    folder = source / "low_noise_model"
    first = sorted(folder.glob("*.safetensors"))[0]
    held = load_file(first)
    key = next(key for key in held if key.endswith("ffn.0.weight"))
    if what == "shape":
        held[key] = held[key][:, :-1].contiguous()
    elif what == "nan":
        held[key][0, 0] = float("nan")
    elif what == "stray":
        held["stray.weight"] = held[key].clone()
    if what in ("shape", "nan", "stray"):
        save_file(held, first)
    elif what == "missing key":
        held.pop(key)
        save_file(held, first)
    elif what == "truncated":
        first.write_bytes(first.read_bytes()[:-100])
    elif what == "rubbish":
        first.write_bytes(b"\xff" * 64)
    elif what == "missing shard":
        first.unlink()
    elif what == "other place":
        (folder / "config.json").write_text(json.dumps({"expert": "high"}))
    elif what == "pickle":
        for path in folder.iterdir():
            path.unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    elif what == "low alone":
        import shutil

        shutil.rmtree(source / "high_noise_model")
    return source


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("shape", r"ffn\.0\.weight: found shape \(64, 47\), expected \(64, 48\)"),
        ("nan", "1 values that are not finite"),
        ("stray", r"1 unknown \(stray\.weight\)"),
        ("missing key", "a tensor, as the index says"),
        ("truncated", "cut short"),
        ("rubbish", "a safetensors header"),
        ("missing shard", "the shard that the index names"),
        ("other place", "the high-noise expert, expected the low-noise expert"),
        ("pickle", "a pickle"),
        ("low alone", "the low-noise expert alone"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_is_written(wan, tmp_path, what, words):
    source = damage(wan, what)
    with pytest.raises(InputError, match=words):
        import_model(str(source), tmp_path / "ours", CONFIG)
    assert {path.name for path in tmp_path.iterdir()} == {"wan"}


def test_sizes_that_differ_from_the_profile_are_named(wan, tmp_path):
    config = CONFIG.model_copy(update={"model": ModelSettings(**{**SIZES, "num_layers": 3})})
    with pytest.raises(InputError, match=r"missing \(blocks\.2\.attn1"):
        import_model(str(wan[0]), tmp_path / "ours", config)
    with pytest.raises(InputError, match="pickles are not loaded"):
        find_experts(str(tmp_path / "model.pth"))
    assert not (tmp_path / "ours").exists() and WEIGHTS.endswith(".safetensors")


def test_int8_models_and_models_without_an_adapter_are_exported_or_rejected(tmp_path):
    world = WorldModel.create(CONFIG, 1)
    world.save(tmp_path / "whole")
    quantize_experts(world, QuantizeSettings(max_layer_error=1.0))
    world.save(tmp_path / "int8")
    with pytest.raises(InputError, match=r"weight_scale.*an INT8 model"):
        export_model(tmp_path / "int8", tmp_path / "out", WAN)
    for expert in (tmp_path / "whole").glob("transformer*"):
        state = {key: value for key, value in load_file(expert / WEIGHTS).items() if "control_adapter" not in key}
        save_file(state, expert / WEIGHTS)
    with pytest.raises(InputError, match="no camera adapter"):
        export_model(tmp_path / "whole", tmp_path / "out", MOWORLD)
    export_model(tmp_path / "whole", tmp_path / "out", WAN)
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.safetensors")} == {"high_noise_model", "low_noise_model"}


PEAK = """
import sys
from pathlib import Path
from moworld.model.checkpoints import export_model, import_model
from moworld.model.world import WorldConfig

def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

config = WorldConfig.model_validate_json(sys.argv[1])
tiny = config.model_copy(update={"model": config.model.model_copy(update={"ffn_dim": 64})})
import_model("tiny", "out/tiny", tiny)
export_model("out/tiny", "out/tiny-wan", "wan")
before = peak()
import_model("wan", "out/wan", config)
export_model("out/wan", "out/wan-again", "wan")
print(peak() - before)
"""


def test_memory_holds_a_few_tensors_and_never_a_model(tmp_path):
    sizes = {"attention_head_dim": 128, "num_layers": 4}
    for name, ffn_dim in (("tiny", 64), ("wan", 20480)):
        config = CONFIG.model_copy(update={"model": ModelSettings(**{**SIZES, **sizes, "ffn_dim": ffn_dim})})
        with torch.device("meta"):
            state = MoWorldTransformer3DModel(**config.model.transformer()).state_dict()
        kept = {from_diffusers(k): torch.zeros(v.shape, dtype=torch.bfloat16) for k, v in state.items() if "control_adapter" not in k}
        for expert in ("high_noise_model", "low_noise_model"):
            write_sharded(tmp_path / name / expert, kept)
    total = sum(path.stat().st_size for path in (tmp_path / "wan").rglob("*.safetensors"))
    called = subprocess.run(
        [sys.executable, "-c", PEAK, config.model_dump_json()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert total > 170e6 and int(called.stdout.split()[-1]) * 1024 < 0.15 * total  # 10 MB, at any number of layers
