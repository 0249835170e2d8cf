"""The CPUs that this process may use: affinity, the quota of its control group, and a share of them. Imports no package.

`os.cpu_count` returns the CPUs of the machine, also in a pod that may use two of 64.
"""

import math
import os
import sys
from pathlib import Path

SHARE = "MOWORLD_CPU_SHARE"  # variable: number of steps that run side by side on this machine and share its CPUs
THREADS = "OMP_NUM_THREADS"


def available_cpus(root: Path = Path("/")) -> int:
    """Returns how many CPUs this process may keep busy, at least 1: the smallest of affinity and quotas, divided by MOWORLD_CPU_SHARE.

    root: where /proc and /sys are
    A quota of part of a CPU counts as one, and one of 2.5 CPUs as two: more processes than that are throttled together.
    """
    count = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    count = min([count, *_quotas(root)])
    share = os.environ.get(SHARE, "")
    return max(1, math.floor(count / (int(share) if share.isdigit() and int(share) else 1)))


def limit_threads() -> None:
    """Sets OMP_NUM_THREADS to `available_cpus` where libraries would start more threads; a number that is set already stays.

    Libraries count the CPUs of the affinity and ignore quotas and shares. It has an effect on those that are imported afterwards.
    """
    visible = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if available_cpus() < visible:
        os.environ.setdefault(THREADS, str(available_cpus()))


def _quotas(root: Path) -> list[float]:
    """Returns the CPU quotas of this process's control groups and all groups above them, versions 1 and 2; [] without any."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        mounts = [root / "sys/fs/cgroup"] if not controllers else [root / "sys/fs/cgroup" / name for name in (controllers, "cpu")]
        if controllers and "cpu" not in names:
            continue
        for mount in mounts:
            group = Path(path.lstrip("/"))
            found += [quota for folder in (group, *group.parents) if (quota := _quota(mount / folder)) is not None]
    return found


def _quota(folder: Path) -> float | None:
    """Returns the CPUs that a control group may use; None without a limit, or if there is no such group."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return int(quota) / int(period) if quota.isdigit() and int(period) else None
