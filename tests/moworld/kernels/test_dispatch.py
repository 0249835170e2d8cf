"""Choice of an implementation: by device, dtype, sizes and required results; named by the call or the environment; never silent."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moworld import kernels
from moworld.kernels import OPERATORS, NoKernel
from moworld.kernels.dispatch import GRADIENTS, LOG_SUM_EXP, Implementation, Operator, named, operators, overrides

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def entry(name: str, why_not: str = "", **served: object) -> Implementation:
    return Implementation(name, ("cpu",), "reference", lambda: why_not, **served)  # type: ignore[arg-type]


OPERATOR = Operator(
    "attention",
    (
        entry("absent", why_not="it is not installed"),
        entry("half", dtypes=(torch.bfloat16, torch.float16)),
        entry("small", limits={"head_dim": 128}, slow_for=(GRADIENTS,)),
        entry("large", worthwhile={"keys": 1000}),
        entry("forward", lacks=(GRADIENTS,)),
        entry("all"),
    ),
)


@pytest.mark.parametrize(
    ("call", "chosen"),
    [
        ({}, "half"),
        ({"dtype": HALF}, "half"),
        ({"dtype": SINGLE}, "small"),
        ({"dtype": SINGLE, "head_dim": 128}, "small"),
        ({"dtype": SINGLE, "head_dim": 128, "requires": (GRADIENTS,), "keys": 10}, "all"),
        ({"dtype": SINGLE, "head_dim": 129, "keys": 1000}, "large"),
        ({"dtype": SINGLE, "head_dim": 129, "keys": 999}, "forward"),
        ({"dtype": SINGLE, "head_dim": 129, "keys": 999, "requires": (GRADIENTS,)}, "all"),
    ],
)
def test_the_first_that_serves_the_call_is_chosen_and_the_others_have_a_reason(call, chosen):
    choice = OPERATOR.choose("cpu", **call)
    assert choice.name == chosen and choice is OPERATOR.choose("cpu", **call)
    assert choice.refused["absent"] == "it is not installed"
    assert list(choice.refused) == [entry.name for entry in OPERATOR.table][: len(choice.refused)]


def test_each_reason_says_what_is_wrong():
    refused = OPERATOR.choose("cpu", dtype=SINGLE, requires=(GRADIENTS,), head_dim=200, keys=10).refused
    assert refused["half"] == "takes bfloat16, float16, not float32"
    assert refused["small"] == "takes head_dim up to 128, not 200"
    assert refused["large"] == "is faster from keys 1000 on, not at 10"
    assert refused["forward"] == "computes no gradients, which the call requires"
    assert OPERATOR.choose("cpu", dtype=SINGLE, requires=(GRADIENTS,)).refused["small"] == "is slower for calls that require gradients"
    with pytest.raises(NoKernel, match="no implementation for tpu: absent serves cpu; half serves cpu"):
        OPERATOR.choose("tpu")


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("absent", {}, "kernel attention: no implementation named absent for cpu: it is not installed"),
        ("half", {"dtype": SINGLE}, "not float32"),
        ("forward", {"requires": (GRADIENTS,)}, "no gradients"),
        ("warp", {}, "no implementation is named warp; available: absent, half, small, large, forward, all"),
    ],
)
def test_a_named_implementation_that_cannot_run_is_an_error_of_one_line(name, call, words):
    with pytest.raises(NoKernel, match=words) as caught:
        OPERATOR.choose("cpu", name, **call)
    assert "\n" not in str(caught.value)


def test_a_named_implementation_runs_where_another_is_faster():
    assert OPERATOR.choose("cpu", "large", keys=1).name == "large"
    assert OPERATOR.choose("cpu", "small", requires=(GRADIENTS,)).name == "small"


def test_the_environment_names_implementations_and_a_call_overrides_it(monkeypatch):
    monkeypatch.setenv("MOWORLD_KERNELS", "int8_linear=reference, attention = all")
    assert OPERATOR.choose("cpu").name == "all"
    assert OPERATOR.choose("cpu", "small").name == "small"
    assert replace(OPERATOR, name="qk_norm_rope").choose("cpu").name == "half"
    monkeypatch.delenv("MOWORLD_KERNELS")
    assert OPERATOR.choose("cpu").name == "half"


def test_an_implementation_that_the_environment_names_and_that_cannot_run_is_an_error_with_the_variable(monkeypatch):
    monkeypatch.setenv("MOWORLD_KERNELS", "attention=absent")
    with pytest.raises(NoKernel, match=r"absent \(MOWORLD_KERNELS\) for cpu: it is not installed"):
        OPERATOR.choose("cpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "expected OPERATOR=IMPLEMENTATION") for text in ("attention", "attention=", "attentoin=reference", "reference")),
        ("sdpa=onednn", "write attention=onednn$"),
        ("attention=all,sdpa=reference", "write attention=sdpa$"),
    ],
)
def test_a_malformed_environment_is_an_error_whichever_operator_is_called(text, words, monkeypatch):
    monkeypatch.setenv("MOWORLD_KERNELS", text)
    with pytest.raises(NoKernel, match=f"MOWORLD_KERNELS: .*{words}") as caught:
        replace(OPERATOR, name="int8_linear").choose("cpu")
    assert "\n" not in str(caught.value)


def test_a_block_of_code_names_implementations_and_restores_the_choice(monkeypatch):
    monkeypatch.setenv("MOWORLD_KERNELS", "attention=small")
    with pytest.raises(KeyError), named(attention="forward"):
        assert OPERATOR.choose("cpu").name == "forward"
        with named(int8_linear="reference"):
            assert OPERATOR.choose("cpu").name == "forward"
        raise KeyError
    assert OPERATOR.choose("cpu").name == "small" and overrides() == {"attention": "small"}
    with pytest.raises(NoKernel, match="found sdpa, expected an operator of attention"), named(sdpa="reference"):
        pass


# Choices on simulated machines: operator, implementations that cannot run, device, dtype, required results, sizes, choice.
FEW, MANY = {"queries": 200, "keys": 2047, "logits": 200 * 2047}, {"queries": 200, "keys": 2048, "logits": 200 * 2048}
LSE, ALL = (LOG_SUM_EXP,), ()
PINNED = [
    ("attention", ALL, "cuda", HALF, (), {"head_dim": 128, **MANY}, "hopper"),
    ("attention", ALL, "cuda", torch.float16, (), {"head_dim": 64, **MANY}, "hopper"),
    ("attention", ALL, "cuda", HALF, (), {"head_dim": 128, **FEW}, "sdpa"),
    ("attention", ALL, "cuda", HALF, (), {"head_dim": 129, **MANY}, "sdpa"),
    ("attention", ALL, "cuda", SINGLE, (), {"head_dim": 128, **MANY}, "sdpa"),
    ("attention", ALL, "cuda", HALF, (GRADIENTS,), {"head_dim": 128, **MANY}, "sdpa"),
    ("attention", ("hopper",), "cuda", HALF, (), {"head_dim": 128, **MANY}, "sdpa"),
    ("attention", ALL, "npu", HALF, (), {"head_dim": 128, **MANY}, "sdpa"),
    ("attention", ALL, "npu", HALF, (GRADIENTS,), {"head_dim": 128, **MANY}, "sdpa"),
    ("attention", ALL, "cpu", SINGLE, (), {"head_dim": 16, "queries": 96, "keys": 512, "logits": 96 * 512}, "onednn"),
    ("attention", ALL, "cpu", HALF, (), {"head_dim": 900, **FEW}, "onednn"),
    ("attention", ALL, "cpu", SINGLE, (), {"head_dim": 16, "queries": 96, "keys": 511, "logits": 96 * 511}, "sdpa"),
    ("attention", ALL, "cpu", SINGLE, (), {"head_dim": 16, "queries": 95, "keys": 600, "logits": 95 * 600}, "sdpa"),
    ("attention", ALL, "cpu", DOUBLE, (), {"head_dim": 16, **MANY}, "sdpa"),
    ("attention", ALL, "cpu", SINGLE, (GRADIENTS,), {"head_dim": 16, **MANY}, "sdpa"),
    ("attention", ("onednn",), "cpu", SINGLE, (), {"head_dim": 16, **MANY}, "sdpa"),
    ("attention", ALL, "cuda", HALF, LSE, {"head_dim": 128, "heads": 40}, "hopper"),
    ("attention", ALL, "cuda", SINGLE, LSE, {"head_dim": 128, "heads": 40}, "triton"),
    ("attention", ("hopper",), "cuda", HALF, LSE, {"head_dim": 128, "heads": 40}, "triton"),
    ("attention", ALL, "cuda", HALF, LSE, {"head_dim": 129, "heads": 40}, "reference"),
    ("attention", ALL, "cuda", DOUBLE, LSE, {"head_dim": 64, "heads": 4}, "reference"),
    ("attention", ALL, "npu", HALF, LSE, {"head_dim": 768, "heads": 256}, "npu_binding"),
    ("attention", ALL, "npu", HALF, LSE, {"head_dim": 128, "heads": 257}, "reference"),
    ("attention", ALL, "npu", HALF, LSE, {"head_dim": 769, "heads": 4}, "reference"),
    ("attention", ("npu_binding",), "npu", HALF, LSE, {"head_dim": 64, "heads": 4}, "reference"),
    ("attention", ALL, "cpu", SINGLE, LSE, {"head_dim": 900, "heads": 999}, "flash_cpu"),
    ("attention", ALL, "cpu", DOUBLE, LSE, {"head_dim": 64, "heads": 4}, "flash_cpu"),
    ("int8_linear", ALL, "cpu", None, (), {}, "int_mm"),
    ("int8_linear", ("int_mm",), "cpu", None, (), {}, "float_gemm"),
    ("int8_linear", ALL, "cuda", None, (), {}, "triton"),
    ("int8_linear", ALL, "npu", None, (), {}, "npu"),
    ("int8_linear", ("npu",), "npu", None, (), {}, "reference"),
    ("modulated_norm", ALL, "cpu", SINGLE, (), {}, "reference"),
    ("modulated_norm", ALL, "cuda", HALF, (), {}, "triton"),
    ("modulated_norm", ALL, "cuda", HALF, (GRADIENTS,), {}, "reference"),
    ("modulated_norm", ("triton",), "cuda", HALF, (), {}, "reference"),
    ("modulated_norm", ALL, "npu", HALF, (GRADIENTS,), {}, "npu"),
    ("qk_norm_rope", ALL, "cpu", SINGLE, (GRADIENTS,), {"head_dim": 128, "heads": 40}, "pairs"),
    ("qk_norm_rope", ALL, "cuda", HALF, (), {"head_dim": 128, "heads": 40}, "triton"),
    ("qk_norm_rope", ALL, "cuda", HALF, (GRADIENTS,), {"head_dim": 128, "heads": 40}, "pairs"),
    ("qk_norm_rope", ALL, "npu", HALF, (GRADIENTS,), {"head_dim": 894, "heads": 999}, "npu"),
    ("qk_norm_rope", ALL, "npu", HALF, (), {"head_dim": 896, "heads": 4}, "reference"),
    ("qk_norm_rope", ALL, "npu", HALF, (GRADIENTS,), {"head_dim": 128, "heads": 1000}, "reference"),
]


@pytest.mark.parametrize(("operator", "absent", "device", "dtype", "requires", "sizes", "chosen"), PINNED)
def test_choices_of_the_operators_are_these(operator, absent, device, dtype, requires, sizes, chosen):
    real = next(found for found in operators() if found.name == operator)
    entries = (replace(entry, target="reference", why_not=lambda gone=entry.name in absent: "absent" if gone else "") for entry in real.table)
    assert Operator(operator, tuple(entries)).choose(device, None, dtype, requires, **sizes).name == chosen


def test_every_operator_has_a_folder_and_a_reference_that_serves_every_device_and_is_documented():
    assert [operator.name for operator in operators()] == list(OPERATORS)
    folder = Path(kernels.__file__).parent
    assert sorted(path.parent.name for path in folder.glob("*/reference.py")) == sorted(OPERATORS)
    for operator in operators():
        files = {path.name for path in (folder / operator.name).glob("*.py")}
        of_devices = {"gsplat_binding.py"} if operator.name == "gaussians" else {"triton_kernel.py", "npu_binding.py"}
        assert files >= {"__init__.py", "reference.py"} | of_devices
        last = operator.table[-1]
        assert last.name == "reference" and last.devices == ("cpu", "cuda", "npu") and not last.lacks
        text = (folder / "README.md").read_text()
        assert all(f"| {operator.name} | `{entry.name}`" in text for entry in operator.table if entry.name != "reference")
