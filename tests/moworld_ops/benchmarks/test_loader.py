"""`moworld bench loader` and `contract`: rows that machines can read, and peers that do the same work. No test asserts a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.data.features import FeatureStore
from moworld.data.loader import sample_window
from moworld.model.settings import CodecSettings
from moworld_ops.benchmarks import loader
from moworld_ops.benchmarks.contract import HIGHEST, bench_contract
from moworld_ops.benchmarks.loader import bench_caching, bench_loader, clip_arrays, cut_window, read_ranges, write_clips
from moworld_ops.data_contracts.check import check_path
from moworld_ops.data_contracts.load import load_contract
from tests.moworld_ops.benchmarks.test_measure import KEYS

NAMES = {"latents", "text", "c2w", "intrinsics"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("bench") / "ours"
    write_clips(folder, 16, 32, clips=2)
    return FeatureStore(folder)


def test_windows_are_timed_beside_the_bytes_alone_and_installed_peers(capsys):
    rows = bench_loader(16, 32, fps=4.0, clips=2, windows=3)
    assert all(list(row) == KEYS and row["unit"] == "samples/s" and "3 windows of 9 frames, 16x32" in row["case"] for row in rows)
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.02) for row in rows)
    absent = [line for line in capsys.readouterr().err.splitlines() if "not beside" in line]
    assert rows[0]["peer_name"] == "the same bytes read alone" and len(rows) + len(absent) == 4  # a peer is in the table or named as absent


@pytest.mark.parametrize("ahead", [0, 4])
def test_the_bytes_alone_are_those_of_the_windows(store, ahead):
    chosen = [sample_window(store.clips, 3, 0, number) for number in range(5)]
    windows = [store.read_window(row.clip_id, start, 3) for row, start in chosen]
    # latents and text are kept as float16 and handed out as float32
    wanted = sum(tensor.numel() * (2 if name in ("latents", "text") else 4) for window in windows for name, tensor in window.items())

    def read() -> int:
        return next(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))

    before = read()
    about_io = read() - before  # reading the count counts as well
    before = read()
    read_ranges(store, chosen, 3, ahead)
    assert read() - before - about_io == pytest.approx(wanted, abs=64)


def test_a_peers_window_is_ours(store):
    whole = clip_arrays(store, "clip-1")
    ours, theirs = store.read_window("clip-1", 40, 5), cut_window(whole, 40, 5)
    assert set(ours) == set(theirs) == NAMES
    for name in NAMES:
        peer = theirs[name].transpose(0, 1) if name == "latents" else theirs[name]
        assert torch.equal(ours[name], peer), name


@pytest.mark.parametrize(("module", "make"), [("webdataset", loader.webdataset_reader), ("streaming", loader.streaming_reader)])
def test_a_peer_returns_what_was_written(store, tmp_path, module, make, monkeypatch):
    pytest.importorskip(module, reason="this peer is installed beside, not with, the project")
    whole, cut, given = [clip_arrays(store, row.clip_id) for row in store.clips], cut_window, []
    run = make(store, tmp_path / "peer", 2, 3)
    monkeypatch.setattr(loader, "cut_window", lambda arrays, *place: given.append(arrays) or cut(arrays, *place))
    run()
    assert len(given) == 2
    for arrays in given:
        assert any(all(np.array_equal(arrays[name], clip[name]) for name in NAMES) for clip in whole)


def test_cached_input_is_timed_beside_encoding():
    (row,) = bench_caching(16, 32, 4.0, CodecSettings(hidden=8, blocks=1))
    assert list(row) == KEYS and row["case"] == "training input of 9 frames, 16x32" and row["peer_name"] == "decode and encode"
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.01)


def test_a_contract_over_many_rows_rejects_those_beyond_its_limits():
    row = bench_contract(lambda path: check_path(path, load_contract("geometry")).quarantined, rows=3000)
    limits = {rule.column: rule.maximum for rule in load_contract("geometry").rules if rule.maximum is not None}
    generator, beyond = np.random.default_rng(0), np.zeros(3000, bool)
    for name, high in HIGHEST.items():
        beyond |= generator.uniform(0, high, 3000) > limits.get(name, np.inf)
    assert row["rejected"] == beyond.sum() > 0
    assert row["case"] == "contract check of 3,000 rows" and row["peak_bytes"] > 0
