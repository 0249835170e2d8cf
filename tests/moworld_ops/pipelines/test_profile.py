"""Profiles: every one in the package is valid; overrides and errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moworld.errors import InputError
from moworld.evaluation.gates import verdict
from moworld_ops.pipelines import profile


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_of_the_package_is_valid_and_has_five_stages(name):
    found, settings = profile.load(name)
    assert found == name
    frames = [stage.frames for stage in settings.curriculum]
    assert len(frames) == 5 and frames == sorted(frames)
    assert all(number % 4 == 1 for number in frames)


def test_set_overrides_one_value_and_leaves_the_rest():
    before, after = (
        profile.load("pocket")[1],
        profile.load("pocket", ["distill.steps=3", "curriculum.0.optimizer.lr=0.5", "data.videos=clips"])[1],
    )
    assert (after.distill.steps, after.curriculum[0].optimizer.lr, after.data.videos) == (3, 0.5, "clips")
    assert after.curriculum[1:] == before.curriculum[1:] and after.model == before.model


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("/x/take #2", "/x/take #2"),
        ("#2", "#2"),
        ("take#2", "take#2"),
        ("'/x/take #2'", "/x/take #2"),
        ('"/x/take" # a comment', "/x/take"),
    ],
)
def test_a_number_sign_in_a_plain_value_is_no_comment(value, read):
    assert profile.load("pocket", [f"data.videos={value}"])[1].data.videos == read


def test_a_comment_after_a_list_is_ignored():
    assert profile.load("pocket", ["data.game.train_maps=[MAP01] # one"])[1].data.game.train_maps == ("MAP01",)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distil.steps=3", "did you mean 'distill'"),
        ("distill.stepps=3", "did you mean 'steps'"),
        ("data.game.train_map=[MAP01]", "did you mean 'train_maps'"),
        ("curriculum.0.frame=5", "did you mean 'frames'"),
        ("curriculum.9.frames=5", "an index from 0 to 4"),
        ("resources.pools.cpu.cpu=two", "--set: resources.pools.cpu.cpu: found 'two', expected a Kubernetes quantity above 0"),
        ("resources.pools.cpu.cpu=0", "--set: resources.pools.cpu.cpu: found 0, expected a Kubernetes quantity"),
        ("resources.pools.train.memory=8GB", "--set: resources.pools.train.memory: found '8GB'"),
        ("images.tag=latest", "--set: images.tag: found 'latest', expected a tag of one build, not `latest`"),
        ("images.digests={data: v1}", "--set: images.digests.data"),
        ("registry.name=a/b", "--set: registry.name: found 'a/b', expected a name that MLflow accepts"),
        ("registry.name=a@b", "--set: registry.name: found 'a@b', expected a name that MLflow accepts"),
        ("registry.name=it's \"b\"", "expected a name that MLflow accepts"),
        ("distill.steps=many", "--set: distill.steps: found 'many', expected a valid integer"),
        ("curriculum.0.batch=-1", "--set: curriculum.0.batch: found -1, expected greater than 0"),
        ("model.num_layers=0", "--set: model.num_layers"),
        ("benchmark.windows=0", "--set: benchmark.windows"),
        ("curriculum.0.camera_dropout=1.5", "less than or equal to 1"),
        ("distill.steps", "KEY=VALUE"),
        ("seed.more=1", "seed"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key_and_the_fix(override, words):
    with pytest.raises(InputError) as caught:
        profile.load("pocket", [override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_profile_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match="did you mean 'pocket'"):
        profile.load("pockett")
    path = tmp_path / "mine.yaml"
    path.write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        profile.load(str(path))
    path.write_text("- a")
    with pytest.raises(InputError, match="mapping"):
        profile.load(str(path))


def test_a_profile_survives_the_run_record():
    settings = profile.load("pocket")[1]
    again = profile.parse(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json"))), "run.json")
    assert again == settings
    assert profile.text(again.model) == profile.text(settings.model)


def test_a_model_of_a14bs_size_needs_base_weights_and_a_small_one_does_not():
    _, large = profile.load("wan22-a14b")
    assert json.loads(profile.base_of(large)) == {"source": large.inputs.base, "low": "", "licence": "Apache-2.0", "sha256": ""}
    _, small = profile.load("pocket", ["inputs.base="])
    assert profile.base_of(small) == "null"
    _, changed = profile.load("pocket", ["inputs.base=/models/wan", "inputs.base_low=/models/low"])
    expected = {"source": "/models/wan", "low": "/models/low", "licence": "not stated", "sha256": "12"}
    assert json.loads(profile.base_of(changed, "12")) == expected
    with pytest.raises(InputError, match=r"inputs\.base: found nothing.*experts of 14\.\d B"):
        profile.base_of(profile.load("wan22-a14b", ["inputs.base=''"])[1])


@pytest.mark.parametrize(
    ("cpu", "memory", "read"),
    [
        ("1", "8Gi", ("1", "8Gi")),
        ("'1'", "'8Gi'", ("1", "8Gi")),
        ("1000m", "1.5Gi", ("1", "1610612736")),
        ("0.5", "2e9", ("500m", "2000000000")),
    ],
)
def test_quantities_are_read_in_every_form_that_kubernetes_has_and_passed_on_in_one_that_kfp_has(cpu, memory, read):
    pool = profile.load("pocket", [f"resources.pools.cpu.cpu={cpu}", f"resources.pools.cpu.memory={memory}"])[1].resources.pools["cpu"]
    assert (pool.cpu, pool.memory) == read


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "resources.pools.cpu.cpu=two"), "resources.pools.cpu.cpu"),
        (("--profile", "wan22-a14b"), "inputs.features: found nothing"),
        (("--schedule", "0 0 3 * *"), "six fields"),
        (("--schedule", "0 0 25 * * *"), "hour"),
        (("--set", "registry.name=a/b"), "registry.name"),
    ],
)
def test_a_bad_value_of_a_run_on_a_cluster_is_refused_before_anything_heavy_is_imported(arguments, words, tmp_path):
    code = """
import sys
from moworld_ops.pipelines.cli.app import main
sys.argv = ["moworld", *sys.argv[1:]]
try:
    main()
except SystemExit as error:
    print(error.code, sorted({"kfp", "kfp_server_api", "kubernetes", "torch", "mlflow", "requests"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, "run", "pretrain", "--engine", "kubeflow", *arguments]
    environment = {**os.environ, "MOWORLD_HOME": str(tmp_path), "KFP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "2 []" and words in done.stderr, done.stdout + done.stderr


SEEN = {
    "turning_correlation", "walking_correlation", "looking_correlation", "swapped_turns", "separation_excess", "walk_contrast",
    "walk_saturation", "return_psnr", "chunks_in_time",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in profile.names() if name != "test"])
def test_a_model_that_ignores_the_keys_is_refused_by_every_profile_but_test(name):
    """The metrics are those of a model that the gates of before let pass."""
    measured = json.loads((Path(__file__).parent / "refused_metrics.json").read_text(encoding="utf-8"))
    gates = profile.load(name)[1].gates
    assert {gate.metric for gate in gates} >= SEEN
    rows = verdict(measured, None, gates, {"signature": "holds", "contract": "passed", "licences": "CC-BY-4.0"})
    refused = {row["metric"] for row in rows if row["passed"] is False and row["value"] is not None}
    assert refused >= {"turning_correlation", "walking_correlation", "swapped_turns", "separation_excess"}
