"""The graph of pipeline `data` with partitions: two loops and two merging steps; with one partition the graph is the former one."""

import pytest
import yaml

from moworld.files import write_json
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.catalog import build, producer
from moworld_ops.pipelines.engine_kubeflow import build_for_cluster, write_ir
from moworld_ops.pipelines.engine_local import steps_of
from moworld_ops.pipelines.placement import Local
from moworld_ops.pipelines.runs import Run

IN_PARTITIONS = ("collect", "complete_geometry", "check_quality", "annotate")


def profile(*overrides: str):
    return profiles.load("test", list(overrides))[1]


def test_one_partition_is_the_former_graph():
    chosen = profile()
    steps = steps_of(build("data", chosen, Local("", chosen.resources)).pipeline_spec)
    assert [step.name for step in steps] == [*IN_PARTITIONS, "train_codec", "cache_features"]
    assert producer("captioned", chosen) == ("annotate", "captioned")


def test_the_local_graph_has_each_step_once_a_partition():
    chosen = profile("data.partitions=3")
    steps = {step.name: step.needs for step in steps_of(build("data", chosen, Local("", chosen.resources)).pipeline_spec)}
    parts = [f"p{number:02d}" for number in range(3)]
    looped = {f"{name}-{part}" for name in (*IN_PARTITIONS, "cache_features") for part in parts}
    assert set(steps) == {"split_sources", "merge_clips", "train_codec", "merge_features", *looped}
    assert steps["collect-p02"] == ("split_sources",) and steps["check_quality-p01"] == ("complete_geometry-p01",)
    assert set(steps["merge_clips"]) == {f"{name}-{part}" for name in IN_PARTITIONS for part in parts}
    assert set(steps["cache_features-p00"]) == {"merge_clips", "train_codec"}
    assert producer("captioned", chosen) == ("merge_clips", "captioned") and producer("features", chosen) == ("merge_features", "features")


def test_the_cluster_graph_limits_how_many_run_at_once(tmp_path):
    chosen = profile("data.partitions=8", "data.partitions_at_once=3")
    assert write_ir(build_for_cluster("data", chosen), tmp_path / "data.yaml", True)["tasks"] == 10  # with the preflight
    spec, platform = yaml.safe_load_all((tmp_path / "data.yaml").read_text())
    loops = [task for task in spec["root"]["dag"]["tasks"].values() if "parameterIterator" in task]
    assert [task["iteratorPolicy"]["parallelismLimit"] for task in loops] == [3, 3]
    assert [yaml.safe_load(task["parameterIterator"]["items"]["raw"]) for task in loops] == [[str(number) for number in range(8)]] * 2
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert all("pvcMount" in executors[f"exec-{name.replace('_', '-')}"] for name in (*IN_PARTITIONS, "merge_clips", "cache_features"))


def test_ranks_of_a_loop_are_found(tmp_path):
    assert write_ir(build_for_cluster("data", profiles.load("wan22-a14b", ["data.partitions=4"])[1]), tmp_path / "wan.yaml", True)["trainjobs"] == ["cache-features"]


def test_a_budget_is_shared_by_the_partitions():
    vision = "annotation={url: 'http://x/v1', model: m, budget_tokens: 1000}"
    chosen = profile(vision, "data.partitions=4")
    spec = build("data", chosen, Local("", chosen.resources)).pipeline_spec
    loop = next(one.dag.tasks for one in spec.components.values() if "annotate" in one.dag.tasks)
    assert '"budget_tokens": 250' in loop["annotate"].inputs.parameters["settings"].runtime_value.constant.string_value


@pytest.mark.parametrize("merged", [False, True])
def test_outputs_of_a_run_in_partitions_are_those_of_the_merging_steps(tmp_path, merged):
    names = {"merge_clips": ("captioned", "quarantine"), "merge_features": ("features",)} if merged else {"annotate": ("captioned", "quarantine"), "cache_features": ("features",)}
    for step, outputs in names.items():
        for name in outputs:
            (tmp_path / step / name).mkdir(parents=True)
        record = {"status": "done", "outputs": {name: {"path": str(tmp_path / step / name)} for name in outputs}}
        write_json(tmp_path / "run/steps" / f"{step}.json", record)
    run, expected = Run(tmp_path / "run"), tuple(names)
    assert run.step("cache_features")["status"] == "done" and run.step("distill") == {}
    assert run.output("annotate", "captioned") == tmp_path / expected[0] / "captioned"
    assert run.output("cache_features", "features") == tmp_path / expected[1] / "features"
    write_json(tmp_path / expected[0] / "quarantine/reasons.json", [{"clip_id": "a"}])
    assert [step for step, _, _ in run.rejections()] == [expected[0]]
