"""The context of a step: from the compiled task, the pod's fields, and the record of a local run."""

import json

import pytest

from moworld.errors import InputError
from moworld.files import write_json
from moworld_ops.components.platform.context import CONTEXT, NAMESPACE, RUN, StepContext, context


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
    """Starts outside a run, with an empty state folder."""
    for name in (CONTEXT, RUN, NAMESPACE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))


def test_outside_a_run_there_is_no_folder_and_no_run():
    assert context() == StepContext() and context().checkpoints is None
    with pytest.raises(InputError, match="MOWORLD_RUN: found nothing"):
        _ = context().run_id


def test_on_a_cluster_the_pod_s_fields_complete_the_compiled_context(monkeypatch):
    monkeypatch.setenv(CONTEXT, StepContext(step="distill").text())
    monkeypatch.setenv(RUN, "1f0c")
    monkeypatch.setenv(NAMESPACE, "team")
    assert context() == StepContext(step="distill", run="1f0c", namespace="team")
    assert json.loads(StepContext(step="distill").text()) == {"step": "distill"}


def test_locally_the_run_s_record_completes_it_also_after_the_state_folder_was_moved(monkeypatch, tmp_path):
    monkeypatch.setenv(CONTEXT, StepContext(step="distill", code="1").text())
    monkeypatch.setenv(RUN, "one")
    record = {"engine_process": "12:3.00", "git_commit": "abc", "attempts": [{"status": "killed"}, {"status": "running"}]}
    write_json(tmp_path / "runs" / "one" / "run.json", record)
    place = {"step": "distill", "run": "one", "folder": tmp_path / "runs" / "one"}
    assert context() == StepContext(**place, code="1", attempt=2, commit="abc", engine="12:3.00")
    assert context().checkpoints == str(tmp_path / "runs/one/checkpoints/distill")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert context().folder is None


def test_the_compiled_context_has_precedence_and_survives_as_text(monkeypatch, tmp_path):
    whole = StepContext(step="a", code="b", run="c", namespace="d", folder=tmp_path, attempt=3, engine="4:5.00")
    monkeypatch.setenv(CONTEXT, whole.text())
    monkeypatch.setenv(RUN, "other")
    assert context() == whole


@pytest.mark.parametrize("value", ["{", '{"stepp": "a"}', '{"attempt": "many"}'])
def test_an_invalid_context_is_refused_in_one_line(monkeypatch, value):
    monkeypatch.setenv(CONTEXT, value)
    with pytest.raises(InputError, match="MOWORLD_CONTEXT") as caught:
        context()
    assert "\n" not in str(caught.value)
