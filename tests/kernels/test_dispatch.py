"""The choice of an implementation: by device, dtype, size and gradient; named by the call or the environment; never in silence."""

from pathlib import Path

import pytest
import torch

import kernels.dispatch
from kernels import OPERATORS, NoKernel
from kernels.dispatch import Implementation, Operator, named, operators, overrides


def entry(name: str, why_not: str = "", **served: object) -> Implementation:
    return Implementation(name, ("cpu",), lambda: why_not, lambda: name, **served)


TABLE = (
    entry("absent", why_not="it is not installed"),
    entry("half", dtypes=(torch.bfloat16, torch.float16)),
    entry("small", limits=(("head_dim", 128),)),
    entry("forward", differentiable=False),
    entry("all"),
)


@pytest.mark.parametrize(
    ("call", "taken"),
    [
        ({}, "half"),
        ({"dtype": torch.bfloat16}, "half"),
        ({"dtype": torch.float32}, "small"),
        ({"dtype": torch.float32, "head_dim": 128}, "small"),
        ({"dtype": torch.float32, "head_dim": 129}, "forward"),
        ({"dtype": torch.float32, "head_dim": 129, "gradient": True}, "all"),
    ],
)
def test_the_first_that_serves_the_call_is_taken_and_the_others_are_told_why(call, taken):
    choice = Operator("attention", TABLE).choose("cpu", **call)
    assert choice.name == choice.operator == taken
    assert choice.refused["absent"] == "it is not installed"
    assert list(choice.refused) == [entry.name for entry in TABLE][: len(choice.refused)]


def test_a_choice_is_kept_for_calls_that_are_alike_and_no_others():
    operator = Operator("attention", TABLE)
    for _ in range(2):
        for call, taken in (({}, "half"), ({"dtype": torch.float32}, "small"), ({"dtype": torch.float32, "head_dim": 129}, "forward"),
                            ({"dtype": torch.float32, "head_dim": 129, "gradient": True}, "all")):  # fmt: skip
            assert operator.choose("cpu", **call).name == taken
    assert operator.choose("cpu") is operator.choose("cpu")
    assert operator.choose("cpu", "all").name == "all"


def test_each_reason_says_what_is_wrong():
    refused = Operator("attention", TABLE).choose("cpu", dtype=torch.float32, gradient=True, head_dim=200).refused
    assert refused["half"] == "takes bfloat16, float16, not float32"
    assert refused["small"] == "takes head_dim up to 128, not 200"
    assert refused["forward"] == "computes no gradients, and they are asked for"
    with pytest.raises(NoKernel, match="no implementation for tpu: absent serves cpu; half serves cpu"):
        Operator("attention", TABLE).choose("tpu")


@pytest.mark.parametrize(
    ("wanted", "call", "words"),
    [
        ("absent", {}, "kernel attention: no implementation named absent for cpu: it is not installed"),
        ("half", {"dtype": torch.float32}, "not float32"),
        ("forward", {"gradient": True}, "no gradients"),
        ("warp", {}, "none is named warp; there are absent, half, small, forward, all"),
    ],
)
def test_one_that_is_asked_for_and_cannot_run_is_an_error_of_one_line(wanted, call, words):
    with pytest.raises(NoKernel, match=words) as caught:
        Operator("attention", TABLE).choose("cpu", wanted, **call)
    assert "\n" not in str(caught.value)


@pytest.fixture
def environment(monkeypatch):
    """Sets MOWORLD_KERNELS as a process would find it."""
    overrides.cache_clear()
    yield lambda text: monkeypatch.setenv("MOWORLD_KERNELS", text)
    overrides.cache_clear()


def test_the_environment_names_implementations_and_a_call_overrules_it(environment):
    environment("int8_linear=reference, attention = all")
    assert Operator("attention", TABLE).choose("cpu").name == "all"
    assert Operator("attention", TABLE).choose("cpu", "small").name == "small"
    assert Operator("qk_norm_rope", TABLE).choose("cpu").name == "half"


def test_the_environment_s_wish_that_cannot_run_is_an_error_that_names_it(environment):
    environment("attention=absent")
    with pytest.raises(NoKernel, match=r"absent \(MOWORLD_KERNELS\) for cpu: it is not installed"):
        Operator("attention", TABLE).choose("cpu")


@pytest.mark.parametrize("text", ["attention", "attention=", "attentoin=reference", "reference"])
def test_an_environment_that_cannot_be_read_is_an_error_whatever_operator_is_called(text, environment):
    environment(text)
    with pytest.raises(NoKernel, match="MOWORLD_KERNELS"):
        Operator("int8_linear", TABLE).choose("cpu")


def test_a_benchmark_names_implementations_for_a_while():
    attention = next(operator for operator in operators() if operator.name == "attention")
    usual = attention.choose("cpu").name
    with pytest.raises(KeyError), named(attention="reference"):
        assert attention.choose("cpu").name == "reference" != usual
        raise KeyError
    assert attention.choose("cpu").name == usual and "attention" not in overrides()


def test_every_operator_has_a_folder_a_reference_that_serves_every_device_and_the_three_files():
    assert [operator.name for operator in operators()] == list(OPERATORS)
    folder = Path(kernels.__file__).parent
    assert sorted(path.parent.name for path in folder.glob("*/reference.py")) == sorted(OPERATORS)
    for operator in operators():
        wanted = {"__init__.py", "reference.py", "triton_kernel.py", "npu_binding.py"}
        if operator.name == "sdpa":  # its kernel for GPUs is attention's, and PyTorch's own call reaches torch_npu's
            wanted -= {"triton_kernel.py", "npu_binding.py"}
        assert {path.name for path in (folder / operator.name).glob("*.py")} >= wanted
        last = operator.table[-1]
        assert last.name == "reference" and last.devices == ("cpu", "cuda", "npu") and last.differentiable
        assert f"| {operator.name} | " in (folder / "README.md").read_text()
