"""The report of a run: one self-contained page, with missing parts reported and all text escaped."""

import re
import xml.etree.ElementTree as ElementTree

from moworld.evaluation.report import dag_svg, metric_rows, write_report

STEPS = [
    {"name": "collect", "needs": [], "status": "done", "seconds": 12.34, "peak_bytes": 5e8, "error": None},
    {"name": "train", "needs": ["collect"], "status": "failed", "seconds": 1.0, "peak_bytes": 3e9, "error": "loss nan at step 3"},
]
RECORD = {
    "run": "r1", "pipeline": "lifecycle", "profile": "pocket", "status": "failed", "seconds": 13.4, "git_commit": "abc", "data_revision": "def",
    "contract_version": "1.0.0", "steps": STEPS, "losses": {"train": {"high": [[0, 2.0], [1, 1.0]], "low": []}},
    "metrics": {"last_frame_psnr": 19.7, "student_next_chunk_psnr": 20.5, "model_bytes": 3 * 2**20, "unknown_thing": 4.0},
    "gates": [{"gate": "frames_per_second at least 16", "value": 3.0, "threshold": 16, "passed": False}], "samples": [],
    "data": {"accepted": 2, "quarantined": [{"clip_id": "<b>x</b>", "rule": "one-shot", "value": 0.95, "threshold": "-inf to 0.8"}]},
    "quantization": {"replaced": 64}, "model": {"name": "m", "version": 3, "alias": "champion", "hash": "ff"},
    "lineage": [{"kind": "clip", "name": "map01-00", "detail": "sha256 00"}],
}  # fmt: skip


def page_of(tmp_path, **changes) -> str:
    write_report(tmp_path / "report.html", {**RECORD, **changes})
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_has_the_record_and_loads_nothing(tmp_path):
    page = page_of(tmp_path)
    for words in (
        "loss nan at step 3",
        "12.3 s",
        "one-shot",
        "0.95",
        "frames_per_second at least 16",
        "map01-00",
        "sha256 00",
        "20.5 dB",
        "3 MiB",
    ):
        assert words in page, words
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page) and "<link" not in page and "@import" not in page


def test_text_from_outside_is_escaped(tmp_path):
    page = page_of(tmp_path)
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page


def test_an_empty_run_has_a_report(tmp_path):
    page = page_of(tmp_path, losses={}, metrics={}, gates=[], data={}, quantization={}, model=None, lineage=[], steps=[])
    for words in ("No model was registered", "No metrics", "No gates", "No step trained", "Nothing was quantized", "no clips accepted"):
        assert words in page, words


def test_videos_are_embedded(tmp_path):
    for name in ("real", "generated"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    sample = {"title": "t", "note": "n", "real": str(tmp_path / "real.mp4"), "generated": str(tmp_path / "generated.mp4")}
    page = page_of(tmp_path, samples=[sample])
    assert page.count("data:video/mp4;base64,") == 2 and "cmVhbA==" in page


def test_the_dag_has_a_box_per_step_and_a_line_per_dependency():
    tree = ElementTree.fromstring(dag_svg(STEPS))
    assert len(tree.findall(".//rect")) == 2 and len(tree.findall(".//path")) == 1
    assert [group.get("class") for group in tree.findall("g")] == ["done", "failed"]


def test_metrics_are_in_the_order_of_the_table_with_baselines():
    rows = metric_rows(RECORD["metrics"])
    assert [row["name"] for row in rows] == ["student_next_chunk_psnr", "last_frame_psnr", "model_bytes", "unknown_thing"]
    assert rows[0]["baselines"] == [{"name": "last_frame_psnr", "value": "19.7 dB"}] and rows[2]["value"] == "3 MiB"
