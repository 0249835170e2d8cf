"""Compiled IR of the paper's profile: loads back against the spec, images by digest, NPU steps as TrainJobs on their pools."""

import itertools
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from moworld.errors import InputError
from moworld_ops.components.platform.attempts import FACTOR
from moworld_ops.components.platform.context import StepContext
from moworld_ops.components.platform.images import image
from moworld_ops.components.platform.pools import parse
from moworld_ops.components.platform.preflight import Requirements
from moworld_ops.components.platform.source import ROOT, code_revision
from moworld_ops.components.platform.trainjobs import trainjob
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.catalog import inputs_of
from moworld_ops.pipelines.engine_kubeflow import compile_all, validate
from moworld_ops.pipelines.placement import requirements_of
from tests.cluster import check_custom
from tests.moworld_ops.pipelines.command import Command


def compile_profile(tmp_path_factory, name):
    """Returns the directory with every compiled pipeline, the facts by pipeline, and the settings."""
    out, settings = tmp_path_factory.mktemp(name), profile.load(name)[1]
    return out, compile_all(["all"], settings, out), settings


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_profile(tmp_path_factory, "wan22-a14b")


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return compile_profile(tmp_path_factory, "pocket")


def documents(out, name):
    return list(yaml.safe_load_all((out / f"{name}.yaml").read_text()))


def test_every_pipeline_compiles_and_every_image_has_a_digest(compiled):
    out, found, _ = compiled
    assert sorted(found) == ["data", "distill", "lifecycle", "pretrain", "release"]
    assert sorted(path.stem for path in out.iterdir()) == sorted(found)
    for name, facts in found.items():
        assert facts["images"] == sorted({image("launcher")} | ({image("data")} if name not in ("pretrain", "distill") else set()))
        assert all("@sha256:" in one for one in facts["images"])


def test_the_curriculum_is_a_chain_of_five_and_each_stage_runs_its_experts_on_two_pools(compiled):
    out, found, _settings = compiled
    tasks = documents(out, "lifecycle")[0]["root"]["dag"]["tasks"]
    chain = ["train-curriculum"] + [f"train-curriculum-{number}" for number in range(2, 6)]
    for before, after in itertools.pairwise(chain):
        assert tasks[after]["inputs"]["artifacts"]["previous"]["taskOutputArtifact"]["producerTask"] == before
    assert "previous" not in tasks[chain[0]]["inputs"]["artifacts"]
    for name in chain:
        jobs = json.loads(tasks[name]["inputs"]["parameters"]["pool"]["runtimeValue"]["constant"])
        assert [job["queue"] for job in jobs] == ["high-noise", "low-noise"]
        assert [job["arguments"]["experts"] for job in jobs] == [["high"], ["low"]]
        assert {job["resource"] for job in jobs} == {"huawei.com/Ascend910"}
        assert {job["image"] for job in jobs} == {image("train-npu")}
    assert set(chain) < set(found["lifecycle"]["trainjobs"])


def tasks_and_executors(out, name):
    """(task, its executor, its Kubernetes settings) of every task that runs a container."""
    spec, platform = documents(out, name)
    for task_name, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        executor = spec["deploymentSpec"]["executors"][label]
        if "container" in executor:
            settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
            yield task_name, task, executor["container"], settings


PIPELINES = ("data", "pretrain", "distill", "release", "lifecycle")
SECRET_WORDS = re.compile(r"(?i)(password|secret|token|access_key)")


def test_a_profile_without_pools_is_refused_on_a_cluster(tmp_path):
    with pytest.raises(InputError, match="a pool for every step"):
        compile_all(["data"], profile.load("test", ["resources.pools={}", "resources.steps={}"])[1], tmp_path)


def test_profile_test_fits_beside_kubeflow_pipelines_on_two_cpus(tmp_path):
    compile_all(["lifecycle"], profile.load("test")[1], tmp_path)
    for name, _, container, _ in tasks_and_executors(tmp_path, "lifecycle"):
        resources = container["resources"]
        wanted = ("100m", "512Mi") if name == "preflight" else ("200m", "1Gi")
        assert (resources["resourceCpuRequest"], resources["resourceMemoryRequest"]) == wanted, name


BAKED = {"data": {"image.name": "reg.example:5000/me/python-data:c0ffee", "containerimage.digest": f"sha256:{'1' * 64}"}}


@pytest.mark.parametrize(
    ("content", "data", "launcher"),
    [
        ({"registry": "reg.example:5000/me", "tag": "v1"}, "reg.example:5000/me/python-data:v1", "reg.example:5000/me/python-launcher:v1"),
        ({"digests": {"data": f"sha256:{'1' * 64}"}}, f"{image('data').partition('@')[0]}@sha256:{'1' * 64}", image("launcher")),
        (BAKED, f"reg.example:5000/me/python-data@sha256:{'1' * 64}", f"reg.example:5000/me/python-launcher@{image('launcher').partition('@')[2]}"),
    ],
)
def test_an_installation_may_use_its_own_images(tmp_path, monkeypatch, capsys, content, data, launcher):
    (tmp_path / "images.json").write_text(json.dumps(content))
    moworld = Command(tmp_path, monkeypatch, capsys)
    done = moworld("compile", "data", "--profile", "test", "--images", "images.json", "--out", "out", "--json")
    assert done.returncode == 0 and "not pushed" not in done.stderr, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["images"] == sorted([data, launcher])
    found = {name: (task, settings) for name, task, _, settings in tasks_and_executors(tmp_path / "out", "data")}
    assert {settings["imagePullPolicy"] for _, settings in found.values()} == {"IfNotPresent"}  # an image may be on a node alone
    text = (tmp_path / "out" / "data.yaml").read_text()
    assert f'"image":"{data}"' in text  # what step register records
    required = json.loads(found["preflight"][0]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"])
    assert required["images"] == {"data": data, "launcher": launcher} and not required["unpublished_images"]


def test_a_file_of_images_with_anything_else_is_refused(tmp_path, monkeypatch, capsys):
    moworld = Command(tmp_path, monkeypatch, capsys)
    for content, words in (("[]", "found list"), ("{repository: x}", "did you mean 'registry'"), ("{tag: latest}", "not `latest`")):
        (tmp_path / "images.yaml").write_text(content)
        done = moworld("compile", "data", "--profile", "test", "--images", "images.yaml")
        assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "no such file" in moworld("compile", "data", "--images", "none.yaml").stderr.lower()


@pytest.mark.parametrize("pipeline", [*PIPELINES, "pocket"])
def test_every_task_follows_the_policy(compiled, pocket, pipeline):
    """Resources, a deadline, retries, a user that is not root, state on the shared volume, no accelerator, no secret in plain text."""
    found = list(tasks_and_executors(pocket[0], "lifecycle") if pipeline == "pocket" else tasks_and_executors(compiled[0], pipeline))
    for name, task, container, settings in found:
        resources = container["resources"]
        assert "accelerator" not in resources, f"{name} requests an accelerator outside a TrainJob"
        assert {"resourceCpuLimit", "resourceMemoryLimit", "resourceCpuRequest", "resourceMemoryRequest"} <= set(resources), name
        assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), name
        assert int(settings["activeDeadlineSeconds"]) > 0, name
        assert settings["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}, name
        assert settings["podMetadata"]["labels"]["sidecar.istio.io/inject"] == "false", name
        assert settings["pvcMount"][0]["mountPath"] == "/mnt/moworld", name
        assert pipeline == "pocket" or settings["nodeSelector"]["labels"] == {"kubernetes.io/arch": "amd64"}, name
        fields = {field["name"]: field["fieldPath"] for field in settings["fieldPathAsEnv"]}
        assert fields["MOWORLD_RUN"] == "metadata.labels['pipeline/runid']", name
        for variable in container.get("env", []):
            assert not SECRET_WORDS.search(variable["name"]), f"{name}: {variable['name']} in plain text"
        assert fields["MOWORLD_NODE"] == "metadata.annotations['workflows.argoproj.io/node-name']", name
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        assert variables["MOWORLD_GIT_COMMIT"] == code_revision(), name
        retries = json.loads(variables["MOWORLD_CONTEXT"]).get("retries", 0)
        if name in ("preflight", "promote"):
            assert "retryPolicy" not in task and retries == 0, f"refusals of {name} are deterministic"
        else:
            assert task["retryPolicy"]["maxRetryCount"] == retries == 2, name
            latest = int(task["retryPolicy"]["backoffMaxDuration"].removesuffix("s"))
            assert latest >= 3 * int(settings["activeDeadlineSeconds"]), f"{name}: Argo counts from the first attempt's start"
    assert len(found) >= 3


def test_the_runbook_s_table_of_retries_is_what_is_compiled(compiled):
    """One row for each kind of end; its numbers are those of the IR. How Argo acts on them was read in its sources, not run here."""
    section = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8").partition("### What is retried")[2].partition("\n### ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][2:]
    kinds = ("exit status 1", "exit status 2", "out of memory", "pod deleted, node gone", "pod evicted or preempted", "deadline", "cancelled")
    assert [next(kind for kind in kinds if row[0].startswith(kind)) for row in rows] == list(kinds)
    assert all(len(row) == 5 and row[1] and row[3] and row[4] for row in rows)  # end, repeated, by whom (if at all), how often, cost
    table = {kind: " | ".join(row) for kind, row in zip(kinds, rows, strict=True)}
    for name, task, container, settings in tasks_and_executors(compiled[0], "lifecycle"):
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        place = StepContext.model_validate_json(variables["MOWORLD_CONTEXT"])
        if "retryPolicy" not in task:
            assert f"`{name}`" in table["exit status 1"] and place.retries == 0, name
            continue
        policy = task["retryPolicy"]
        waits = [place.retry_seconds * FACTOR**number for number in range(place.retries)]
        assert " and ".join(f"{wait:.0f} s" for wait in waits) in table["exit status 1"], name
        assert f"{place.retries + 1} attempts in all" in table["exit status 1"], name
        argo = [int(policy["backoffDuration"].removesuffix("s")) * policy["backoffFactor"] ** number for number in range(policy["maxRetryCount"])]
        assert " and ".join(f"{wait:.0f} s" for wait in argo) in table["pod deleted, node gone"], name
        assert f"{policy['maxRetryCount']} more pods" in table["pod deleted, node gone"], name
        longest = int(policy["backoffMaxDuration"].removesuffix("s")) / int(settings["activeDeadlineSeconds"])
        assert f"`backoffMaxDuration` of a task is {('once', 'twice', 'three times')[int(longest) - 1]} its deadline" in section, name
    assert "1 attempt" in table["exit status 2"]


def test_only_register_and_promote_get_the_signing_key_and_preflight_its_public_part(compiled):
    mounted, keys = set(), {}
    for name, _, _, settings in tasks_and_executors(compiled[0], "lifecycle"):
        mounted |= {name for volume in settings.get("secretAsVolume", []) if "moworld-signing" in json.dumps(volume)}
        found = [one["secretKey"] for secret in settings.get("secretAsEnv", []) if "moworld-signing" in json.dumps(secret) for one in secret["keyToEnv"]]
        keys |= {name: found} if found else {}
    assert mounted == {"register", "promote"} and keys == {"preflight": ["signing.pub"]}


def test_a_launcher_and_preflight_request_what_the_profile_says(compiled):
    for name, task, container, _ in tasks_and_executors(compiled[0], "lifecycle"):
        if name == "preflight" or task["inputs"].get("parameters", {}).get("pool", {}).get("runtimeValue", {}).get("constant"):
            asked = [container["resources"][f"resource{key}"] for key in ("CpuRequest", "MemoryRequest", "CpuLimit", "MemoryLimit")]
            assert asked == ["100m", "512Mi", "2", "8Gi"], name


def test_only_register_and_promote_write_the_ledger_of_the_registry_s_database_and_preflight_tries_it(compiled):
    """Each in a pod with the label that a network policy lets reach the database."""
    found = {}
    for name, _, _, settings in tasks_and_executors(compiled[0], "lifecycle"):
        for secret in settings.get("secretAsEnv", []):
            if "moworld-mlflow" in json.dumps(secret):
                assert secret["keyToEnv"] == [{"envVar": "MOWORLD_REGISTRY_DATABASE", "secretKey": "backend-store-uri"}]
                found[name] = secret.get("optional", False), settings["podMetadata"]["labels"].get("moworld.io/uses-database")
    assert found == {"preflight": (True, "true"), "register": (False, "true"), "promote": (False, "true")}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_task_is_cached_without_the_revision_of_its_data(compiled, pipeline):
    for name, task, _, _ in tasks_and_executors(compiled[0], pipeline):
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        assert not cached or "revision" in task["inputs"].get("parameters", {}), name


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_task_waits_for_the_preflight_which_checks_what_the_profile_names(compiled, pipeline):
    found = {name: task for name, task, _, _ in tasks_and_executors(compiled[0], pipeline)}
    for name, task in found.items():
        assert name == "preflight" or "preflight" in task["dependentTasks"], name
    wanted = Requirements(**json.loads(found["preflight"]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]))
    assert wanted.queues == ["high-noise", "low-noise"] and wanted.runtimes == ["moworld-single-npu", "moworld-train-npu"]
    assert set(wanted.secrets) == {"moworld-object-store", "moworld-signing", "moworld-mlflow"} and wanted.contracts["clips"]
    assert {(node.amount, node.count) for node in wanted.nodes} == {(8, 8), (1, 1)}  # both experts train at the same time
    assert "s3://moworld/footage" in wanted.uris


def test_every_step_on_an_npu_pool_is_a_trainjob_and_launchers_are_small(compiled):
    for name, task, container, settings in tasks_and_executors(compiled[0], "lifecycle"):
        pool = task["inputs"].get("parameters", {}).get("pool", {}).get("runtimeValue", {}).get("constant", "")
        if not pool:
            continue
        assert container["resources"]["resourceCpuLimit"] == "2", name
        assert container["image"] == image("data" if name == "cache-features" else "launcher"), name
        for job in parse(pool):
            assert int(settings["activeDeadlineSeconds"]) > job.queue_seconds + job.seconds, f"{name}: the launcher must outlive its job"
            trainer = trainjob(name, "m-x", job, "/mnt/moworld/m-x/arguments.json", "r")["spec"]["trainer"]
            assert trainer["numProcPerNode"] == int(trainer["resourcesPerNode"]["limits"]["huawei.com/Ascend910"])
            assert [one["valueFrom"]["secretKeyRef"]["name"] for one in trainer["env"]] == ["moworld-object-store"] * 3
    assert {"quantize", "benchmark", "distill", "cache-features"} <= set(compiled[1]["lifecycle"]["trainjobs"])


def test_on_a_cluster_without_npus_trainjobs_request_no_accelerator(pocket):
    out, found, settings = pocket[0], pocket[1]["lifecycle"], pocket[2]
    assert set(found["trainjobs"]) == {"train-curriculum", *(f"train-curriculum-{n}" for n in range(2, 6)), "train-autoregressive", "distill"}
    tasks = {name: (task, container) for name, task, container, _ in tasks_and_executors(out, "lifecycle")}
    for name, (_, container) in tasks.items():
        assert container["image"] == image("launcher" if name in (*found["trainjobs"], "preflight") else "data"), name
    (pool,) = parse(tasks["distill"][0]["inputs"]["parameters"]["pool"]["runtimeValue"]["constant"])
    job = trainjob("distill", "m-x", pool, "/mnt/moworld/m-x/arguments.json", "r")
    check_custom(job)
    trainer = job["spec"]["trainer"]
    assert trainer["image"] == image("train-cpu") and trainer["numProcPerNode"] == 1
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "2", "memory": "8Gi"}
    assert "queue-name" not in json.dumps(job)
    wanted = requirements_of(settings)
    assert (wanted["queues"], wanted["runtimes"], wanted["nodes"]) == ([], ["moworld-train-cpu"], [])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_inputs_that_are_checked_before_compiling_are_the_parameters(compiled, pocket, pipeline):
    for out, _, settings in (compiled, pocket):
        parameters = documents(out, pipeline)[0]["root"]["inputDefinitions"]["parameters"]
        assert set(parameters) == {"seed", "run", *inputs_of(pipeline, settings)}


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("profile_name", ["wan22-a14b", "pocket"])
def test_the_ir_equals_the_golden_files(compiled, pocket, profile_name):
    """`make golden` rewrites the files, so that a review sees changes. kfp's version, the commit and image digests are omitted."""
    for path in sorted({"wan22-a14b": compiled, "pocket": pocket}[profile_name][0].glob("*.yaml")):
        text = normal(path.read_text(encoding="utf-8"))
        kept = GOLDEN / profile_name / path.name
        if os.environ.get("MOWORLD_GOLDEN") == "write":
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text, encoding="utf-8")
        assert kept.read_text(encoding="utf-8") == text, (
            f"{path.name} of {profile_name} differs from the golden file; if the change is intended: make golden"
        )


def normal(text: str) -> str:
    text = re.sub(r"^sdkVersion:.*\n", "", text, flags=re.MULTILINE)
    head = code_revision().partition("+")[0]  # the golden files themselves may be what changed since the pipelines were compiled
    text = re.sub(rf"{re.escape(head)}(\+changes)?", "<commit>", text)
    return re.sub(r"@sha256:[0-9a-f]{64}", "@sha256:<digest>", text)


def test_the_same_sources_compile_to_the_same_bytes(compiled, tmp_path):
    out, _, settings = compiled
    compile_all(["pretrain"], settings, tmp_path)
    assert (tmp_path / "pretrain.yaml").read_bytes() == (out / "pretrain.yaml").read_bytes()


def test_settings_are_passed_as_json(compiled):
    out, _, settings = compiled
    task = documents(out, "pretrain")[0]["root"]["dag"]["tasks"]["train-curriculum-3"]
    stage = json.loads(task["inputs"]["parameters"]["stage"]["runtimeValue"]["constant"])
    assert type(settings.curriculum[2])(**stage) == settings.curriculum[2]


def test_a_profile_without_held_out_footage_says_so_to_every_step_and_gates_on_nothing_that_needs_it(tmp_path):
    alone = ["benchmark.held_out=false", "gates=[{metric: frames_per_second, at_least: 1}]"]
    compile_all(["lifecycle"], profile.load("pocket", alone)[1], tmp_path)
    tasks = documents(tmp_path, "lifecycle")[0]["root"]["dag"]["tasks"]

    def value(task: str, name: str):
        return json.loads(tasks[task]["inputs"]["parameters"][name]["runtimeValue"]["constant"])

    assert value("collect", "required_splits") == value("annotate", "required_splits") == ["train"]
    assert value("benchmark", "settings")["held_out"] is False
    with pytest.raises(InputError, match=r"gates: found codec_psnr_held_out, with benchmark\.held_out=false"):
        compile_all(["lifecycle"], profile.load("pocket", alone[:1])[1], tmp_path)


@pytest.mark.parametrize("damage", ["unknown field", "tag", "nothing"])
def test_invalid_ir_is_refused(compiled, damage):
    spec = documents(compiled[0], "pretrain")[0]
    if damage == "unknown field":
        spec["root"]["dagg"] = {}
    elif damage == "tag":
        spec["deploymentSpec"]["executors"]["exec-train-curriculum"]["container"]["image"] = "python:latest"
    with pytest.raises(InputError):
        validate("" if damage == "nothing" else yaml.safe_dump(spec), "pipeline.yaml")


def test_a_pool_becomes_a_trainjob_with_whole_nodes(compiled):
    task = documents(compiled[0], "pretrain")[0]["root"]["dag"]["tasks"]["train-curriculum"]
    pool = parse(task["inputs"]["parameters"]["pool"]["runtimeValue"]["constant"])[0]
    job = trainjob("train_curriculum", "run-1", pool, "/mnt/moworld/run-1/arguments.json")
    trainer = job["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 8 == int(trainer["resourcesPerNode"]["limits"]["huawei.com/Ascend910"])
    assert not any("PET_" in str(value) for value in trainer.values())
