"""The gates of a model line are recorded, and two managers at once do not overtake each other."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from moworld.errors import InputError
from moworld.evaluation.gate_policy import incomplete, weakened
from moworld.evaluation.gates import Gate
from moworld.evaluation.metrics import METRICS
from moworld_ops.components.platform import releases
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import GATES, NAME, promote, register_version, state

SIGNATURE, CONTRACT, QUALITY, SPEED = GATES
MARGIN_ONLY = Gate(metric="student_next_chunk_psnr", champion_margin=1)
INCOMPLETE = {
    "none": [],
    "signature alone": [SIGNATURE],
    "contract alone": [CONTRACT],
    "quality alone": [QUALITY],
    "speed alone": [SPEED],
    "no signature": [CONTRACT, QUALITY, SPEED],
    "no contract": [SIGNATURE, QUALITY, SPEED],
    "no quality": [SIGNATURE, CONTRACT, SPEED],
    "memory for quality": [SIGNATURE, CONTRACT, Gate(metric="peak_bytes", at_most=1e9)],
    "size for quality": [SIGNATURE, CONTRACT, Gate(metric="model_bytes", at_most=1e9)],
    "a margin for quality": [SIGNATURE, CONTRACT, MARGIN_ONLY],
    "any signature": [Gate(fact="signature", among=["holds", "broken"]), CONTRACT, QUALITY],
    "any contract": [SIGNATURE, Gate(fact="contract", among=["passed", "unknown"]), QUALITY],
    "another contract": [SIGNATURE, Gate(fact="contract", among=["unknown"]), QUALITY],
    "licences for contract": [SIGNATURE, Gate(fact="licences", among=["CC0-1.0"]), QUALITY],
}
QUALITY_BOUND = {"metric": "student_next_chunk_psnr", "at_least": 12.0, "champion_margin": 1.0}
WEAKER = {
    "none": [],
    "no signature": [CONTRACT, QUALITY, SPEED],
    "no contract": [SIGNATURE, QUALITY, SPEED],
    "no quality": [SIGNATURE, CONTRACT, SPEED],
    "no speed": [SIGNATURE, CONTRACT, QUALITY],
    "a lower bound": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "at_least": 11.99})],
    "a wider margin": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "champion_margin": 1.5})],
    "no margin": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "champion_margin": None})],
    "no bound": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "at_least": None})],
    "another metric": [SIGNATURE, CONTRACT, SPEED, Gate(metric="teacher_next_chunk_psnr", at_least=12, champion_margin=1)],
    "a bound in the other direction": [SIGNATURE, CONTRACT, SPEED, Gate(metric="student_next_chunk_psnr", at_most=12, champion_margin=1)],
    "more values": [Gate(fact="signature", among=["holds", "broken"]), CONTRACT, QUALITY, SPEED],
    "other values": [SIGNATURE, Gate(fact="contract", among=["unknown"]), QUALITY, SPEED],
    "slower": [SIGNATURE, CONTRACT, QUALITY, Gate(metric="frames_per_second", at_least=1, champion_margin=2)],
}
STRONGER = {
    "the same": GATES,
    "the same in another order": GATES[::-1],
    "twice": [*GATES, *GATES],
    "more": [*GATES, Gate(metric="drift", at_most=100)],
    "a higher bound": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "at_least": 13})],
    "a lower and a higher bound": [*GATES, Gate(metric="student_next_chunk_psnr", at_least=1)],
    "a narrower margin": [SIGNATURE, CONTRACT, SPEED, Gate(**{**QUALITY_BOUND, "champion_margin": 0.5})],
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A registry with three versions, none promoted, and one of profile `test`; no test here promotes `NAME`."""
    folder = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOWORLD_HOME", str(folder / "state"))
        register_version(folder, 1)
        register_version(folder, 1, "moworld-test", profile="test")
        for number, psnr in ((1, 20.0), (2, 25.0), (3, 19.5)):
            register_version(folder, number, "moworld-race", psnr=psnr)
        yield folder / "state"


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_a_first_promotion_needs_signature_contract_and_a_quality_gate(fresh, kind):
    before, registry = state(fresh), ModelRegistry()
    with pytest.raises(Refused, match="among the gates"):
        promote(registry, "1", gates=INCOMPLETE[kind])
    assert state(fresh) == before and incomplete(INCOMPLETE[kind])


@pytest.mark.parametrize("profile", ["test.yaml", "./test.yaml", "/tmp/test.yaml", "Test", "pocket", ""])
def test_only_the_package_s_profile_test_is_exempt(fresh, profile):
    with pytest.raises(Refused, match="among the gates"):
        promote(ModelRegistry(), "1", gates=[], profile=profile)


def test_a_model_of_profile_test_is_promoted_by_any_gates(fresh):
    assert promote(ModelRegistry(), "1", "moworld-test", gates=[]).aliases == ("champion",)


@pytest.mark.parametrize("kind", WEAKER)
def test_weaker_gates_are_refused_without_an_override(home, kind):
    before, registry = state(home), ModelRegistry()
    with pytest.raises(Refused, match="as recorded"):
        promote(registry, "4", gates=WEAKER[kind])
    assert state(home) == before and weakened(GATES, WEAKER[kind])


@pytest.mark.parametrize("kind", STRONGER)
def test_gates_that_are_as_strong_are_not_weaker(kind):
    assert weakened(GATES, STRONGER[kind]) == []


def test_an_override_with_a_reason_weakens_the_record_and_gates_without_any_do_not_erase_it(home):
    registry = ModelRegistry()
    promote(registry, "4", gates=[], override="the gates file is lost")
    assert releases.recorded_gates(registry.entries(NAME)) == GATES
    promote(registry, "3", gates=WEAKER["slower"], override="slower machines")
    assert releases.recorded_gates(registry.entries(NAME)) == WEAKER["slower"]
    assert [row["gate"] for row in registry.entries(NAME)[-1]["verdict"] if not row["passed"]] == ["frames_per_second at least, as recorded"]
    assert promote(registry, "4", gates=WEAKER["slower"]).version == "4"


def test_a_recorded_gate_whose_metric_was_renamed_is_dropped_by_an_override_only(home, monkeypatch):
    registry, before = ModelRegistry(), state(home)
    monkeypatch.delitem(METRICS, SPEED.metric)
    gates = [gate for gate in GATES if gate != SPEED]
    with pytest.raises(Refused, match="frames_per_second, as recorded: found not a metric any more"):
        promote(registry, "4", gates=gates)
    assert state(home) == before
    assert promote(registry, "4", gates=gates, override="the metric has another name").version == "4"
    assert releases.recorded_gates(registry.entries(NAME)) == gates


def race(version: str) -> str:
    try:
        return promote(ModelRegistry(), version, "moworld-race").version
    except Refused as refused:
        assert "of the champion" in str(refused)
        return "refused"


@pytest.mark.timeout(600)
def test_a_worse_candidate_never_replaces_a_better_one_under_an_old_verdict(fresh):
    """20 races of two managers: version 3 passes against version 1, but not against version 2."""
    registry, chance = ModelRegistry(), random.Random(0)
    promote(registry, "1", "moworld-race")
    promote(registry, "2", "moworld-race")
    for _ in range(20):
        releases.rollback(registry, "moworld-race", "1")
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(race, chance.sample("23", 2)))
        assert "2" in found
        moves = [entry["version"] for entry in registry.entries("moworld-race")]
        assert moves[-1] == "2", moves  # 3 came before 2, or was refused
        assert registry.champion("moworld-race").version == "2"
    assert verify_release(registry, registry.find("moworld-race")) == len(registry.entries("moworld-race"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts the bytes that this process reads, as Linux reports them")
def test_a_promotion_and_a_rollback_read_each_byte_of_a_model_once(home, tmp_path):
    size = 30_000_000
    register_version(tmp_path, 5, fps=24.0, size=size)
    registry = ModelRegistry()
    registry.client.search_registered_models(max_results=1)  # imports mlflow before the count

    def bytes_read(move) -> int:
        before = psutil.Process().io_counters().read_chars
        move()
        return psutil.Process().io_counters().read_chars - before

    assert size < bytes_read(lambda: promote(registry, "5")) < 1.2 * size
    releases.rollback(registry, NAME)
    assert size < bytes_read(lambda: releases.rollback(registry, NAME, "5")) < 1.2 * size


def test_the_versions_that_no_rule_keeps_are_removed_with_their_files(home, tmp_path):
    registry = ModelRegistry()
    for number in (5, 6):
        register_version(tmp_path, number, fps=24.0)
    promote(registry, "6")
    folders = {version.version: registry.artifacts(version).root for version in registry.versions(NAME)}
    with pytest.raises(InputError, match="--keep"):
        releases.collect(registry, NAME, 0)
    assert [version.version for version in releases.collect(registry, NAME, 1)] == ["1", "2", "4", "5"]
    assert len(registry.versions(NAME)) == 6
    assert [version.version for version in releases.collect(registry, NAME, 1, "disk", remove=True)] == ["1", "2", "4", "5"]
    assert [version.version for version in registry.versions(NAME)] == ["3", "6"]
    assert [number for number, folder in folders.items() if folder.is_dir()] == ["3", "6"]
    assert registry.entries(NAME)[-1]["removed"].keys() == {"1", "2", "4", "5"}
    assert verify_release(registry, registry.find(NAME)) == 5
    assert releases.rollback(registry, NAME).version == "3"
    assert releases.collect(registry, NAME, 1, remove=True) == []


def test_a_speed_that_was_not_judged_does_not_refuse_and_is_not_called_passed(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))
    version, slow = (register_version(tmp_path, number, fps=1.0, others=others) for number, others in ((1, 0.9), (2, 0.0)))
    promoted = promote(ModelRegistry(), version.version)
    (entry,) = ModelRegistry().entries(NAME)
    assert promoted.aliases == ("champion",)
    assert [row["passed"] for row in entry["verdict"] if row["metric"] == "frames_per_second"] == [None]
    with pytest.raises(Refused, match="frames_per_second"):
        promote(ModelRegistry(), slow.version)
