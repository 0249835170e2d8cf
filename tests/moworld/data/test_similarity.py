"""Joining reconstructions by Sim(3), by properties and by hand-made truth."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from moworld.camera.controls import controls_to_c2w
from moworld.data.similarity import join, similarity, transform_pose


def walk(keys: str) -> dict[int, np.ndarray]:
    """World to camera of a walk under keyboard controls, by frame."""
    return dict(enumerate(np.linalg.inv(np.asarray(controls_to_c2w(keys), dtype=np.float64))))


def seen_from(poses: dict[int, np.ndarray], scale: float, rotation: np.ndarray, shift: np.ndarray) -> dict[int, np.ndarray]:
    """The same cameras in a world that is scaled, turned and shifted."""
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, shift
    return {number: transform_pose(pose, scale, motion) for number, pose in poses.items()}


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 2**31), st.sampled_from(["w*20", "w*8,wl*8,w*8", "wl*24", "w*10,d*10"]))
def test_models_that_share_pictures_are_joined_exactly(scale, seed, keys):
    generator = np.random.default_rng(seed)
    whole = walk(keys)
    last = max(whole)
    first, second = (
        {n: pose for n, pose in whole.items() if n <= last // 2 + 3},
        {n: pose for n, pose in whole.items() if n >= last // 2 - 3},
    )
    away = seen_from(second, scale, Rotation.random(rng=generator).as_matrix(), generator.normal(size=3) * 10)
    (group,) = join([first, away])
    world = {number: transform_pose(pose, *group[index]) for index in group for number, pose in (first, away)[index].items()}
    found = similarity(world, whole)  # the group's world is that of either model
    assert sorted(world) == sorted(whole) and found is not None
    again = {number: transform_pose(pose, *found) for number, pose in world.items()}
    np.testing.assert_allclose(np.stack([again[n] for n in sorted(again)]), np.stack([whole[n] for n in sorted(whole)]), atol=1e-6)


def test_a_model_whose_pictures_are_all_placed_already_is_not_joined():
    whole = walk("w*8,l*8,w*8")
    inside = seen_from({n: whole[n] for n in range(1, 7)}, 2.0, np.eye(3), np.ones(3))
    first = {n: pose for n, pose in whole.items() if n < 20}
    beyond = {n: pose for n, pose in seen_from(whole, 2.0, np.eye(3), np.ones(3)).items() if n >= 16}
    assert [sorted(group) for group in join([first, inside, beyond])] == [[0, 2], [1]]


def test_models_that_share_too_little_or_disagree_stay_apart():
    whole = walk("w*8,l*8,w*8")
    first, second = ({n: whole[n] for n in range(12)}, {n: whole[n] for n in range(10, 24)})
    assert len(join([first, second])) == 2  # two pictures are not enough
    bent = {
        n: seen_from({n: whole[n]}, 1.0, Rotation.from_euler("y", 20 * n, degrees=True).as_matrix(), np.zeros(3))[n] for n in range(6, 24)
    }
    assert len(join([first, bent])) == 2
    still = dict.fromkeys(range(12), whole[0])
    assert similarity(still, still) is None  # no distance says the scale
