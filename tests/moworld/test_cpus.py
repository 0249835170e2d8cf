"""CPUs of a process: control groups of both versions as files, and a share of them."""

import os
import subprocess
import sys

import pytest

from moworld.cpus import SHARE, THREADS, available_cpus, limit_threads

VISIBLE = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _no_share(monkeypatch):
    monkeypatch.delenv(SHARE, raising=False)
    monkeypatch.delenv(THREADS, raising=False)


def written(root, **files: str):
    for name, text in {"proc/self/cgroup": "0::/\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, VISIBLE),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, VISIBLE),
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),  # a fifth of a CPU
        ({"sys/fs/cgroup/cpu.max": "6400000 100000\n"}, VISIBLE),  # more than the machine has
        ({"sys/fs/cgroup/cpu.max": "no number\n"}, VISIBLE),
        ({"proc/self/cgroup": "0::/pod/one\n", "sys/fs/cgroup/pod/one/cpu.max": "max 100000\n", "sys/fs/cgroup/pod/cpu.max": "190000 100000\n"}, 1),
        ({"proc/self/cgroup": "3:memory:/a\n4:cpu,cpuacct:/a\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n",
          "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 1),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
         VISIBLE),
        ({"proc/self/cgroup": "3:memory:/a\n", "sys/fs/cgroup/memory/a/cpu.max": "100000 100000"}, VISIBLE),
    ],
)  # fmt: skip
def test_the_smallest_limit_counts(tmp_path, files, expected):
    assert available_cpus(written(tmp_path, **files)) == expected


def test_steps_side_by_side_share_the_cpus(tmp_path, monkeypatch):
    for share, expected in ((VISIBLE, 1), (10 * VISIBLE, 1), (1, VISIBLE), ("", VISIBLE), ("many", VISIBLE), (0, VISIBLE)):
        monkeypatch.setenv(SHARE, str(share))
        assert available_cpus(written(tmp_path)) == expected


@pytest.mark.skipif(VISIBLE < 2, reason="one CPU cannot be shared")
def test_threads_follow_the_share(monkeypatch):
    monkeypatch.setenv(SHARE, "")
    limit_threads()
    assert THREADS not in os.environ
    monkeypatch.setenv(SHARE, str(VISIBLE))
    monkeypatch.setenv(THREADS, "7")
    limit_threads()
    assert os.environ[THREADS] == "7"
    program = "from moworld.cpus import limit_threads; limit_threads(); import torch; print(torch.get_num_threads())"
    own = {key: value for key, value in os.environ.items() if key != THREADS}
    assert subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True).stdout.strip() == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity")
def test_affinity_limits_it():
    program = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from moworld.cpus import available_cpus; print(available_cpus())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "1"
