"""`moworld plan`: one row per stage and pool, memory limits, and profiles whose ranks cannot share their work."""

import json

import pytest
from typer.testing import CliRunner

from moworld.errors import InputError
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.cli.app import app
from moworld_ops.pipelines.plan import plan_profile


def plan(*arguments: str):
    done = CliRunner().invoke(app, ["plan", *arguments])
    return done.exit_code, done.stdout


def test_the_paper_scale_has_a_row_for_each_stage_and_pool_and_fits():
    code, text = plan("--profile", "wan22-a14b", "--json")
    found = json.loads(text)
    assert code == 0 and found["assumptions"]
    stages = [(n, pool) for n in range(1, 6) for pool in ("high-noise", "low-noise")]
    student = [("autoregressive", "high-noise"), ("distill-fake", "distill"), ("distill-student", "distill")]
    assert [(row["stage"], row["pool"]) for row in found["stages"]] == [*stages, *student]
    assert all(row["fits"] and row["days"] > 0 and row["cost"] > 0 for row in found["stages"])
    assert found["stages"][0]["parameters"] == pytest.approx(14.29e9 + 0.504e9, rel=1e-3)  # Wan's expert and the camera adapter
    assert found["stages"][9]["tokens"] == 500 * 30 * 52


def test_a_student_step_that_does_not_fit_is_found():
    code, text = plan("--profile", "wan22-a14b", "--set", "distill.parallel.checkpoint_activations=false", "--json")
    assert code == 1 and [row["stage"] for row in json.loads(text)["stages"] if not row["fits"]] == ["distill-fake", "distill-student"]


def test_a_stage_that_does_not_fit_is_shown_and_ends_with_1():
    code, text = plan("--profile", "wan22-a14b", "--set", "curriculum.4.parallel.checkpoint_activations=false")
    assert code == 1 and "FIT" in text


def test_a_pool_of_any_size_is_planned_with_the_rings_that_it_needs():
    code, text = plan("--profile", "wan22-a14b", "--set", "resources.pools.high-noise.nodes=8", "--json")
    rows = {(row["stage"], row["pool"]): row for row in json.loads(text[text.index("{") :])["stages"]}
    assert code == 0
    last, other, student = rows[5, "high-noise"], rows[5, "low-noise"], rows["autoregressive", "high-noise"]
    assert (last["devices"], last["ulysses"], last["ring"], last["ring_of_profile"]) == (64, 8, 8, 4)
    assert (other["devices"], other["ring"]) == (32, 4) and (student["devices"], student["ring"]) == (64, 2)
    with pytest.raises(InputError, match="divides the batch"):  # a run has one ring for both pools
        profile.load("wan22-a14b", ["resources.pools.high-noise.nodes=8"])
    code, _ = plan("--profile", "wan22-a14b", "--set", "resources.pools.high-noise.nodes=3")
    assert code != 0  # 8 x 4 devices a sample, and no multiple of them is 24


def test_one_machine_trains_both_experts_in_one_process():
    code, text = plan("--profile", "pocket", "--json")
    rows = json.loads(text)["stages"]
    assert code == 0 and [row["pool"] for row in rows] == ["this machine"] * 8 and {row["devices"] for row in rows} == {1}


def test_serving_is_planned_with_its_assumptions_and_ends_with_1_where_nothing_fits():
    code, text = plan("--profile", "wan22-a14b", "--serve", "--devices", "5", "--json")
    found = json.loads(text)
    assert code == 0 and found["assumptions"] and {row["devices"] for row in found["placements"]} == {1, 2, 3, 5}
    code, text = plan("--profile", "wan22-a14b", "--serve", "--devices", "5")
    assert code == 0 and "do not fit together on one device" in text and "assumptions:" in text
    code, _ = plan("--profile", "wan22-a14b", "--serve", "--set", "resources.pools.single.device.memory_bytes=10e9")
    assert code == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("curriculum.0.parallel.ulysses=3", "3 for 40 heads"),
        ("curriculum.0.batch=3", "batch 3, 4 ranks a sample, 32 ranks"),
        ("resources.pools.low-noise.nodes=3", "24 ranks"),
        ("autoregressive.batch=1", "autoregressive: found batch 1, 4 ranks a sample, 32 ranks"),
    ],
)
def test_ranks_that_cannot_share_the_work_are_refused_before_anything_runs(override, words):
    with pytest.raises(InputError, match=words):
        profile.load("wan22-a14b", [override])


def test_a_profile_without_devices_is_an_input_error():
    with pytest.raises(InputError, match=r"resources\.machine"):
        plan_profile(profile.load("pocket", ["resources.machine=null"])[1])
