"""Local placement: a profile's pool of kind `torchrun` gives a step its ranks, and the same weights as one process."""

import json
from pathlib import Path

import pytest
import yaml

from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.files import write_json
from moworld.model.world import WorldModel
from moworld_ops.components.platform.pools import Here, TrainJob
from moworld_ops.components.train_curriculum.step import train_curriculum
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.resources import Resources
from moworld_ops.pipelines.runs import Run
from tests.moworld.worlds import SIZES, tiny_batch
from tests.moworld_ops.pipelines.command import Command

STAGE = {"frames": 13, "batch": 2, "steps": 4, "optimizer": {"lr": 1e-3}}
TORCHRUN = ["resources.pools={gpus: {kind: torchrun, ranks: 2}, one: {kind: here}}", "resources.steps={train_curriculum: gpus}"]


@pytest.fixture
def features(tmp_path) -> Path:
    folder = tmp_path / "features"
    (folder / "codec").mkdir(parents=True)
    writer = FeatureWriter(folder)
    for number in range(3):
        batch = tiny_batch(4, batch=1, seed=number)
        facts = {"clip_id": f"clip-{number}", "split": "train", "scene": "", "source": "", "caption": "", "num_frames": 13, "video_sha256": ""}
        writer.add(facts, {key: batch[key][0] for key in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    write_json(folder / "world.json", {"text": {"kind": "minilm", "length": 4}, "height": 16, "width": 32, "fps": 16.0})
    return folder


def test_pretraining_on_the_ranks_of_a_profile_gives_the_weights_of_one_process(features, tmp_path, monkeypatch, capsys):
    values = yaml.safe_load((profile.FOLDER / "test.yaml").read_text())
    (tmp_path / "ranks.yaml").write_text(yaml.safe_dump({**values, "model": SIZES, "curriculum": [STAGE]}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    moworld = Command(tmp_path, monkeypatch, capsys)
    done = moworld("run", "pretrain", "--profile", "ranks.yaml", "--set", f"inputs.features={features}", "--json",
                   *(part for override in TORCHRUN for part in ("--set", override)))  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "home" / "runs" / json.loads(done.stdout)["run"])
    made = WorldModel.load(run.record["artifacts"]["train_curriculum-1"]["model"]["path"]).experts.state_dict()
    assert run.steps()["train_curriculum-1"]["summary"]["ranks"] == 2
    seed = int(run.record["arguments"]["seed"])
    settings = profile.load(str(tmp_path / "ranks.yaml"))[1]
    stage, model = settings.curriculum[0].model_dump(mode="json"), settings.model.model_dump(mode="json")
    train_curriculum(str(features), None, str(tmp_path / "alone"), stage, model, seed)
    for name, expected in WorldModel.load(tmp_path / "alone").experts.state_dict().items():
        assert (made[name] - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name  # as in tests/moworld/training/test_parallel.py


def test_a_pool_that_a_step_cannot_use_is_refused():
    for overrides, words in (
        (["resources.steps.distill=none"], "resources.steps.distill: found none, expected one of cpu, train"),
        ([*TORCHRUN, "resources.steps={default: gpus}"], "cache_features: found gpus with 2 ranks, expected a pool of one process"),
        ([TORCHRUN[0], "resources.steps={default: one, distill: [gpus, one]}"], "expected one pool"),
        (["resources.pools.train.kind=tpu"], "'here', 'torchrun', 'trainjob'"),
        (["resources.pools.train.runtim=x"], "did you mean 'runtime'"),
        ([*TORCHRUN, "resources.steps={default: one, train_curriculum: gpus}", "curriculum.2.batch=1"], "curriculum.2: found batch 1, 1 ranks"),
    ):
        with pytest.raises(InputError) as caught:
            profile.load("pocket", overrides)
        assert words in str(caught.value)


def test_pools_of_a_run_of_the_first_version_are_read_as_those_of_today():
    former = {"cpu": {"kind": "cpu", "cpu": "2", "nodes": 1, "procs_per_node": 8, "queue": "", "runtime": "", "resource": "x", "tolerations": []},
              "train": {"kind": "cpu", "runtime": "moworld-train-cpu", "procs_per_node": 1, "image": "train-cpu"},
              "npu": {"kind": "npu", "runtime": "moworld-train-npu", "queue": "low-noise"}}  # fmt: skip
    pools = Resources(disk_bytes=1, pools=former).pools
    assert pools["cpu"] == Here(cpu="2")
    assert pools["train"] == TrainJob(runtime="moworld-train-cpu", image="train-cpu")
    assert pools["npu"] == TrainJob(runtime="moworld-train-npu", queue="low-noise", procs_per_node=8, resource="huawei.com/Ascend910")
