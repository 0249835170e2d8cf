"""Compiled IR of the paper's profile: loads back against the spec, images by digest, NPU steps as TrainJobs on their pools."""

import itertools
import json

import pytest
import yaml

from components.platform.images import image
from components.platform.trainjobs import trainjob
from moworld.errors import InputError
from pipelines import profile
from pipelines.engine_kubeflow import compile_all, validate


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    out = tmp_path_factory.mktemp("build")
    settings = profile.load("wan22-a14b")[1]
    found = compile_all(["all"], settings, out)
    return out, found, settings


def documents(out, name):
    return list(yaml.safe_load_all((out / f"{name}.yaml").read_text()))


def test_every_pipeline_compiles_and_every_image_has_a_digest(compiled):
    out, found, _ = compiled
    assert sorted(found) == ["data", "distill", "lifecycle", "pretrain", "release"]
    assert sorted(path.stem for path in out.iterdir()) == sorted(found)
    for facts in found.values():
        assert facts["images"] == [image("data")]
        assert "@sha256:" in facts["images"][0]


def test_the_curriculum_is_a_chain_of_five_and_each_stage_runs_its_experts_on_two_pools(compiled):
    out, found, _settings = compiled
    tasks = documents(out, "lifecycle")[0]["root"]["dag"]["tasks"]
    chain = ["train-curriculum"] + [f"train-curriculum-{number}" for number in range(2, 6)]
    for before, after in itertools.pairwise(chain):
        assert tasks[after]["inputs"]["artifacts"]["previous"]["taskOutputArtifact"]["producerTask"] == before
    assert "previous" not in tasks[chain[0]]["inputs"]["artifacts"]
    for name in chain:
        jobs = json.loads(tasks[name]["inputs"]["parameters"]["pool"]["runtimeValue"]["constant"])["jobs"]
        assert [job["queue"] for job in jobs] == ["high-noise", "low-noise"]
        assert [job["arguments"]["experts"] for job in jobs] == [["high"], ["low"]]
        assert {job["resource"] for job in jobs} == {"huawei.com/Ascend910"}
        assert {job["image"] for job in jobs} == {image("train-npu")}
    assert set(chain) < set(found["lifecycle"]["npu_tasks"])


def test_pods_of_tasks_are_small_launchers_with_selectors_and_the_shared_volume(compiled):
    spec, platform = documents(compiled[0], "pretrain")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if "container" not in executor:
            continue
        resources = executor["container"]["resources"]
        assert "accelerator" not in resources and resources["resourceCpuLimit"] == "2"
        assert executors[name]["nodeSelector"]["labels"] == {"kubernetes.io/arch": "amd64"}
        assert executors[name]["pvcMount"][0]["mountPath"] == "/mnt/moworld"


def test_the_same_sources_compile_to_the_same_bytes(compiled, tmp_path):
    out, _, settings = compiled
    compile_all(["pretrain"], settings, tmp_path)
    assert (tmp_path / "pretrain.yaml").read_bytes() == (out / "pretrain.yaml").read_bytes()


def test_settings_travel_whole_as_json(compiled):
    out, _, settings = compiled
    task = documents(out, "pretrain")[0]["root"]["dag"]["tasks"]["train-curriculum-3"]
    stage = json.loads(task["inputs"]["parameters"]["stage"]["runtimeValue"]["constant"])
    assert type(settings.curriculum[2])(**stage) == settings.curriculum[2]


@pytest.mark.parametrize("damage", ["unknown field", "tag", "nothing"])
def test_ir_that_is_not_whole_is_refused(compiled, damage):
    spec = documents(compiled[0], "pretrain")[0]
    if damage == "unknown field":
        spec["root"]["dagg"] = {}
    elif damage == "tag":
        spec["deploymentSpec"]["executors"]["exec-train-curriculum"]["container"]["image"] = "python:latest"
    with pytest.raises(InputError):
        validate("" if damage == "nothing" else yaml.safe_dump(spec), "pipeline.yaml")


def test_a_pool_becomes_a_trainjob_that_asks_for_whole_nodes(compiled):
    task = documents(compiled[0], "pretrain")[0]["root"]["dag"]["tasks"]["train-curriculum"]
    pool = json.loads(task["inputs"]["parameters"]["pool"]["runtimeValue"]["constant"])["jobs"][0]
    job = trainjob("train_curriculum", "run-1", pool, "/mnt/moworld/run-1/arguments.json")
    trainer = job["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 8 == int(trainer["resourcesPerNode"]["limits"]["huawei.com/Ascend910"])
    assert not any("PET_" in str(value) for value in trainer.values())
