"""History selection (paper 4.2)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moworld.camera.controls import controls_to_c2w
from moworld.model.history import HistoryBank, HistoryPolicy, camera_latent_distance, move_origin, select_history
from moworld.model.latent_cameras import LatentCameras, fields_of_view_overlap


@given(frames=st.integers(1, 40), recent=st.integers(0, 4), camera=st.integers(0, 4), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_budget_is_fixed_and_first_and_recent_frames_are_always_selected(frames: int, recent: int, camera: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy = HistoryPolicy(recent=recent, camera=camera)
    chosen = select_history(torch.rand(2, frames, generator=generator), policy)
    assert chosen.shape == (2, policy.num_frames)
    for row in chosen.tolist():
        before_anchor = max(1, frames - 1)
        assert row == sorted(row) and row[0] == 0 and row[-1] < before_anchor, "the anchor is in the window already"
        assert set(range(max(1, before_anchor - recent), before_anchor)) <= set(row)
        repeated = [index for index in row if row.count(index) > 1]
        assert set(repeated) <= {0}, "only the first frame may fill up the budget"
        assert len(set(row)) == min(before_anchor, policy.num_frames)


def test_camera_frames_are_the_nearest_to_the_mean_of_the_chunk() -> None:
    latents = torch.arange(20.0).view(1, 20, 1)
    chunk = torch.tensor([[[6.0], [7.0], [8.0]]])
    distance = camera_latent_distance(latents, chunk)
    torch.testing.assert_close(distance, (latents - 7).abs()[..., 0])
    assert select_history(distance, HistoryPolicy(recent=2, camera=3)).tolist() == [[0, 6, 7, 8, 17, 18]]


def yaw_cameras(degrees: list[float]) -> LatentCameras:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(degrees), 1, 1)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    c2w = c2w[None, :, None].expand(1, -1, 4, -1, -1)
    return LatentCameras(torch.tensor([0.5, 0.7, 0.5, 0.5], dtype=torch.float64).expand(1, len(degrees), 4, 4), c2w)


def test_the_frames_of_a_revisited_view_are_selected() -> None:
    """After a rotation by 180 degrees in steps of 10, a chunk at 30 degrees selects the frames near 30 degrees."""
    cameras = yaw_cameras([10.0 * i for i in range(19)])
    bank = HistoryBank(torch.randn(1, 16, 19, 2, 2), cameras)
    chosen = bank.select(yaw_cameras([28.0, 30.0, 32.0]), HistoryPolicy(recent=2, camera=3))
    assert chosen.tolist() == [[0, 2, 3, 4, 16, 17]]
    assert torch.equal(bank.gather(chosen)[0, :, 1], bank.latents[0, :, 2])


def test_the_bank_holds_no_gradients() -> None:
    latents = torch.randn(1, 16, 1, 2, 2, requires_grad=True)
    bank = HistoryBank(latents, yaw_cameras([0.0]))
    bank.append(latents * 2, yaw_cameras([1.0]))
    assert not bank.latents.requires_grad and len(bank) == 2


def walked(controls: str) -> LatentCameras:
    c2w = torch.as_tensor(controls_to_c2w(controls, step=0.2, degrees=5.0))[None]
    return LatentCameras.from_frames(torch.tensor([0.5, 0.7, 0.5, 0.5], dtype=torch.float64).expand(1, c2w.shape[1], 4), c2w)


def test_distances_are_those_of_views_relative_to_the_anchor() -> None:
    """A shift of the origin must give the distances of camera latents computed in the anchor's frame."""
    cameras, chunk = walked("wl*40,a*20"), walked("s*20,k*4")
    pose = cameras.last_pose()
    expected = camera_latent_distance(cameras.relative_to(pose).latents(), chunk.relative_to(pose).latents())
    moved = (move_origin(one.latents(), pose[:, :3, 3]) for one in (cameras, chunk))
    torch.testing.assert_close(camera_latent_distance(*moved), expected)
    assert not torch.allclose(camera_latent_distance(cameras.latents(), chunk.latents()), expected)


def test_overlap_of_fields_of_view_is_the_visible_share() -> None:
    cameras = yaw_cameras([0.0, 30.0, 180.0])
    overlap = fields_of_view_overlap(cameras, yaw_cameras([0.0]))[0]
    assert overlap[0] == 1 and 0.2 < overlap[1] < 0.9 and overlap[2] == 0
    bank = HistoryBank(torch.randn(1, 16, 19, 2, 2), yaw_cameras([10.0 * i for i in range(19)]))
    chosen = bank.select(yaw_cameras([28.0, 30.0, 32.0]), HistoryPolicy(recent=2, camera=1, similarity="field_of_view"))
    assert chosen.tolist() == [[0, 3, 16, 17]]


def test_a_bank_that_grew_frame_by_frame_is_the_bank_of_all_frames() -> None:
    cameras, latents = walked("wl*60"), torch.randn(1, 16, 16, 2, 2)
    whole, grown = HistoryBank(latents, cameras), HistoryBank(latents[:, :, :1], cameras[:1])
    for frame in range(1, 16):
        grown.append(latents[:, :, frame : frame + 1], cameras[frame : frame + 1])
    policy, chunk = HistoryPolicy(recent=2, camera=3), walked("l*8")
    assert torch.equal(grown.latents, whole.latents) and torch.equal(grown.cameras.c2w, whole.cameras.c2w)
    assert torch.equal(grown.select(chunk, policy), whole.select(chunk, policy)) and grown.nbytes == whole.nbytes


@given(chunks=st.integers(1, 40), length=st.integers(1, 4), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_bank_with_a_capacity_keeps_the_first_and_the_recent_frames_with_their_times(chunks: int, length: int, seed: int) -> None:
    generator, policy = torch.Generator().manual_seed(seed), HistoryPolicy(recent=2, camera=2, capacity=40)
    turns = (torch.rand(1 + chunks * length, generator=generator) * 360).tolist()
    latents = torch.arange(len(turns), dtype=torch.float32).view(1, 1, -1, 1, 1)  # a frame shows its own time
    bank = HistoryBank(latents[:, :, :1], yaw_cameras(turns[:1]), policy.capacity)
    for start in range(1, len(turns), length):
        bank.append(latents[:, :, start : start + length], yaw_cameras(turns[start : start + length]))
        held = bank.latents.flatten().long().tolist()
        assert len(bank) <= policy.capacity and held == sorted(held) and held[0] == 0
        assert bank.time == start + length and held[-3:] == list(range(bank.time))[-3:]
        chosen = bank.select(yaw_cameras([0.0]), policy)
        assert torch.equal(bank.times(chosen), bank.gather(chosen).flatten(1).long())
    whole = HistoryBank(latents, yaw_cameras(turns))
    assert len(whole) == len(turns) and whole.nbytes // len(whole) * policy.capacity >= bank.nbytes


def test_of_similar_views_the_oldest_is_kept_and_no_view_is_lost() -> None:
    """Each full rotation has 30 views; after eight rotations the bank still has all of them, from the first rotation."""
    degrees = [12.0 * i for i in range(30)] * 8
    latents = torch.arange(len(degrees), dtype=torch.float32).view(1, 1, -1, 1, 1)
    bank = HistoryBank(latents[:, :, :1], yaw_cameras(degrees[:1]), capacity=48)
    for frame in range(1, len(degrees)):
        bank.append(latents[:, :, frame : frame + 1], yaw_cameras(degrees[frame : frame + 1]))
    held = bank.latents.flatten().long().tolist()
    assert held[:30] == list(range(30))


def test_a_capacity_that_is_too_small_is_rejected() -> None:
    with pytest.raises(ValidationError, match="at least 40, or 0 for no limit"):
        HistoryPolicy(recent=2, camera=2, capacity=39)
    assert HistoryPolicy(capacity=0).capacity == 0
