"""A full disk: whatever fails in a step, the one line names the directory that is full. Real writes to a small file system, where one can be mounted."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moworld.disk import full_directory, is_disk_full

WRITERS = {
    "json": "write_json(small / 'run' / 'a.json', 'x' * 10**6)",
    "safetensors": "save_file({'w': torch.zeros(10**6)}, small / 'w.safetensors')",
    "safetensors in a folder": """
with atomic_folder(small / 'run' / 'model') as folder:
    save_file({'w': torch.zeros(10**6)}, folder / 'w.safetensors')
""",
    "a stream": "open(small / 'a', 'wb').write(bytes(10**6))",
    "a copy": "(large / 'a').write_bytes(bytes(10**6)); shutil.copyfile(large / 'a', small / 'a')",
    "a checkpoint": """
from torch.distributed.checkpoint import save
save({'w': torch.zeros(10**6)}, checkpoint_id=small / 'checkpoint', no_dist=True)
""",
    "sqlite": """
base = sqlite3.connect(small / 'a.db')
base.execute('create table t (x)')
base.executemany('insert into t values (?)', [('x' * 10**5,)] * 10)
base.commit()
""",
}
STEP = """
import shutil, sqlite3, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from safetensors.torch import save_file
from moworld.files import atomic_folder, write_json
from moworld_ops.components.platform.steps import recorded

large, small = Path(sys.argv[1]), Path(sys.argv[2])
with recorded(SimpleNamespace(name="out", path=str(small / "out"), metadata={{}})):
{body}
"""


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="this user may mount no file system in a namespace of their own")
@pytest.mark.parametrize("name", WRITERS)
def test_a_step_on_a_full_disk_ends_with_one_line_that_names_its_directory(tmp_path, name):
    large, small = tmp_path / "large", tmp_path / "small"
    large.mkdir()
    small.mkdir()
    code = STEP.format(body="".join(f"    {line}\n" for line in WRITERS[name].strip().splitlines()))
    mount = f"mount -t tmpfs -o size=400k tmpfs {small} && exec \"$@\""
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", code, str(large), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 2, done.stderr
    (line,) = done.stdout.strip().splitlines()
    assert "a full disk (" in line and line.partition(": ")[2].startswith(str(small)), line


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("os error 280"), False),
    ],
)
def test_a_full_disk_is_recognised_in_an_error_and_in_its_causes(error, full):
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert is_disk_full(error) is is_disk_full(wrapped) is full


def test_a_failed_copy_names_the_fuller_of_its_two_disks(tmp_path, monkeypatch):
    free = {tmp_path / "source": 10**9, tmp_path / "target": 5, Path.cwd(): 1}
    for folder in list(free)[:2]:
        folder.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**10, 0, free[Path(folder)]))
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "source/a"), None, str(tmp_path / "target/a/b"))
    assert full_directory(error) == (tmp_path / "target", 5)
