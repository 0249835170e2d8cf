"""On-demand loading: the plan as a function of sizes, the same frames to the bit, and a measured peak that keeps to the budget."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moworld.errors import InputError
from moworld.inference.engine import Engine
from moworld.inference.memory import ModuleBytes
from moworld.inference.quantization import QuantizeSettings, quantize_experts
from moworld.inference.residency import load_on_demand, plan_residency
from moworld.inference.session import WorldSession
from moworld.model.int8 import quantize_structure
from moworld.model.text import TextSettings
from moworld.model.transformer import MoWorldTransformer3DModel
from moworld.model.weights import WEIGHTS, Weights
from moworld.model.world import WorldModel, read_config
from tests.moworld.inference.worlds import Letters, picture, served_world

CONTROLS = ["wl*12", "jw*12", "s*12"]
MODULES = [("text", "world"), ("encoder", "world"), ("high", "chunk"), ("low", "chunk"), ("decoder", "chunk")]


@st.composite
def sizes(draw):
    return [ModuleBytes(name, draw(st.integers(1, 50)) * 10**6, draw(st.integers(0, 20)) * 10**6, per) for name, per in MODULES]


@given(modules=sizes(), more=st.integers(0, 400))
@settings(max_examples=40)
def test_a_plan_keeps_to_its_budget_and_more_memory_reads_less_again(modules, more):
    with pytest.raises(InputError) as refused:
        plan_residency(modules, 10**5)
    least = int(float(re.search(r"at least ([\d.,]+) MB", str(refused.value)).group(1).replace(",", "")) * 1e6)
    assert least == max(module.weights + module.working for module in modules)
    with pytest.raises(InputError):
        plan_residency(modules, least - 1)
    smaller, larger = plan_residency(modules, least), plan_residency(modules, least + more * 10**6)
    assert smaller.peak_bytes <= least and larger.peak_bytes <= least + more * 10**6
    assert larger.read_bytes("chunk") <= smaller.read_bytes("chunk")
    assert not larger.overlap or {"high", "low", "decoder"} <= larger.resident


def test_modules_that_fit_stay_and_then_decoding_overlaps():
    modules = [ModuleBytes(name, 10, 2, per) for name, per in MODULES]  # type: ignore[arg-type]
    assert plan_residency(modules, 54).resident == {name for name, _ in MODULES} and plan_residency(modules, 54).overlap
    assert plan_residency(modules, 53).resident == {"high", "low", "decoder"} and plan_residency(modules, 44).overlap
    assert plan_residency(modules, 42).resident == {"high", "low", "decoder"} and not plan_residency(modules, 43).overlap
    two = plan_residency(modules, 34)
    assert len(two.resident & {"high", "low", "decoder"}) == 2 and two.read_bytes("chunk") == 10 and two.peak_module
    assert plan_residency(modules, 12).resident == frozenset() and plan_residency(modules, 12).read_bytes("chunk") == 30


def saved(folder: Path, kind: str, **model: object) -> Path:
    """A tiny world on disk: `float32`, its weights stored in `bfloat16`, or `int8`."""
    world = served_world(folder / "codec", **model)
    if kind == "int8":
        quantize_experts(world, QuantizeSettings())
    world.save(folder / "model")
    if kind == "bfloat16":
        for path in folder.glob(f"model/transformer*/{WEIGHTS}"):
            save_file({key: value.bfloat16() for key, value in load_file(path).items()}, path)
    return folder / "model"


def on_demand(folder: Path, *resident: str) -> WorldModel:
    """The world under a plan that keeps only these modules; all modules of a tiny world would fit."""
    world = load_on_demand(folder, 10**9)
    world.denoiser.residency.plan = replace(world.denoiser.residency.plan, resident=frozenset(resident), overlap=False)
    return world


def frames_of(world: WorldModel) -> list[np.ndarray]:
    session = WorldSession(world, Letters())
    return [session.open(picture(), "a hall", seed=3), *map(session.step, CONTROLS)]


@pytest.mark.parametrize(("kind", "history"), [("float32", "joint"), ("bfloat16", "block_causal"), ("int8", "block_causal")])
def test_frames_equal_those_of_the_resident_world_to_the_bit(tmp_path, kind, history):
    folder = saved(tmp_path, kind, history_attention=history)
    expected = frames_of(WorldModel.load(folder))
    for resident in ([], ["high", "decoder"]):
        world = on_demand(folder, *resident)
        found = frames_of(world)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        loaded = world.denoiser.residency.loaded
        assert loaded >= set(resident) and len(loaded - set(resident)) <= 1  # a module that does not stay is dropped when another one is needed
        for name, expert in world.experts.named_experts():
            assert all(tensor.is_meta != (name in loaded) for tensor in expert.state_dict().values())


def test_sessions_of_an_engine_take_turns_and_get_the_frames_of_a_single_session(tmp_path):
    folder = saved(tmp_path, "float32")
    expected = frames_of(WorldModel.load(folder))
    engine = Engine(on_demand(folder), text_encoder=Letters(), max_sessions=2)
    seats = [engine.admit() for _ in range(2)]
    opened = [seat.open(picture(), "a hall", 3) for seat in seats]
    assert all(np.array_equal(future.result().frames, expected[0]) for future in opened)
    for controls, frames in zip(CONTROLS, expected[1:], strict=True):
        requested = [seat.step(controls) for seat in seats]
        assert all(np.array_equal(future.result().frames, frames) for future in requested)
    engine.close()


def test_the_text_encoder_is_loaded_only_while_it_encodes(tmp_path):
    world = served_world(tmp_path / "codec", text_dim=384)
    world.config = world.config.model_copy(update={"text": TextSettings(kind="minilm", length=4)})
    world.save(tmp_path / "model")
    lazy = on_demand(tmp_path / "model")
    own, other = WorldSession(world), WorldSession(lazy)
    assert np.array_equal(own.open(picture(), "a hall"), other.open(picture(), "a hall"))
    assert torch.equal(own.rollout.text, other.rollout.text) and lazy.text_encoder.encoder is None


def test_a_small_budget_is_refused_with_the_sufficient_one_and_a_broken_file_is_named(tmp_path):
    folder = saved(tmp_path, "float32")
    with pytest.raises(InputError, match=r"found 5\.0 MB, expected at least [\d.]+ MB for text alone"):
        load_on_demand(folder, 5_000_000)
    path = folder / "transformer_2" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="transformer_2"):
        load_on_demand(folder, 10**9)


def measured(*arguments: object) -> str:
    command = [sys.executable, "-m", "tests.moworld.inference.measured", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}).stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_measured_peak_keeps_to_the_budget_that_the_resident_world_exceeds(tmp_path, kind):
    folder = tmp_path / "model"
    measured("make", folder, kind)
    with pytest.raises(InputError) as refused:
        load_on_demand(folder, 1)
    least = float(re.search(r"at least ([\d.,]+) MB", str(refused.value)).group(1).replace(",", "")) * 1e6
    lazy, resident = (json.loads(measured("run", folder, budget)) for budget in (int(least), "resident"))
    assert lazy["frames"] == resident["frames"]
    assert lazy["peak_bytes"] <= 1.08 * least < resident["peak_bytes"]  # between 1.00 and 1.06 beside other work


@pytest.mark.slow
def test_converting_while_loading_holds_one_expert_in_its_stored_precision(tmp_path):
    folder = tmp_path / "model"
    measured("make", folder, "bfloat16")
    measurement = json.loads(measured("run", folder, "quantize"))
    stored, config = Weights(folder / "transformer"), read_config(folder)
    with torch.device("meta"):
        small = MoWorldTransformer3DModel(**config.model.transformer())
        quantize_structure(small)
    one = sum(entry.nbytes for entry in stored.entries.values())
    assert measurement["peak_bytes"] <= 1.05 * (one + 2 * sum(tensor.nbytes for tensor in small.state_dict().values()))
