"""Compositing beside the reference: rows with a ratio."""

from moworld_ops.benchmarks.gaussians import bench_gaussians


def test_rows_compare_the_cpu_s_implementation_with_the_reference():
    rows = bench_gaussians(50, (16, 24), turns=1)
    assert [row["case"] for row in rows] == [f"50 gaussians at 16x24, spans, {what}" for what in ("forward", "forward and backward")]
    for row in rows:
        assert row["peer_name"] == "torch reference" and row["unit"] == "ms" and row["ours"] > 0 and row["ratio"] > 0
