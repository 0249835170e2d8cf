"""Opening a model folder for serving: budgets, refused combinations, and ranks of torchrun."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moworld.errors import InputError
from moworld.inference.loading import parse_bytes, serving_world
from moworld.inference.residency import OnDemandDenoiser
from moworld.inference.session import WorldSession
from moworld.model.int8 import Int8Linear
from moworld.model.rollout import ExpertsDenoiser
from moworld.model.world import WorldModel
from tests.moworld.inference.worlds import Letters, picture, served_world

ROOT = Path(__file__).parents[3]
SHARED = """
import sys
import numpy as np
from moworld.inference.loading import serving_world
from moworld.inference.session import WorldSession
from tests.moworld.inference.worlds import Letters, picture
with serving_world(sys.argv[1]) as world:
    if world is not None:
        session = WorldSession(world, Letters())
        np.save(sys.argv[2], np.concatenate([session.open(picture(), "a hall"), session.step("wl*12"), session.step("j*12")]))
"""


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("800 mb", 8 * 10**8), ("1.5GiB", 3 * 2**29), ("123456", 123456), ("64k", None), ("", None), ("-1GB", None)]
)  # fmt: skip
def test_budgets_are_parsed(text, size):
    if size is None:
        with pytest.raises(InputError, match="write 800MB or 2GB"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == size


def test_a_world_is_resident_on_demand_or_converted(tmp_path, monkeypatch):
    served_world(tmp_path / "codec").save(tmp_path / "model")
    with serving_world(tmp_path / "model") as world:
        assert isinstance(world.denoiser, ExpertsDenoiser)
    with serving_world(tmp_path / "model", memory="1GB") as world:
        assert isinstance(world.denoiser, OnDemandDenoiser) and world.denoiser.residency.plan.budget_bytes == 10**9
    with serving_world(tmp_path / "model", quantize=True) as world:
        assert isinstance(world.experts.low.blocks[0].ffn.net[2], Int8Linear)
    with pytest.raises(InputError, match="--memory with --quantize"), serving_world(tmp_path / "model", "1GB", quantize=True):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--memory with ranks"), serving_world(tmp_path / "model", "1GB"):
        pass


@pytest.mark.slow
def test_ranks_of_torchrun_share_a_model(tmp_path):
    served_world(tmp_path / "codec", history_attention="block_causal").save(tmp_path / "model")
    session = WorldSession(WorldModel.load(tmp_path / "model"), Letters())
    alone = np.concatenate([session.open(picture(), "a hall"), session.step("wl*12"), session.step("j*12")])
    (tmp_path / "shared.py").write_text(SHARED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
    command = [*launcher, tmp_path / "shared.py", tmp_path / "model", tmp_path / "out.npy"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=240)
    assert np.abs(np.load(tmp_path / "out.npy").astype(int) - alone).max() <= 1
