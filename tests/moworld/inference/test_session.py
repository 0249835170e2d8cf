"""A session: it equals the rollout of training, chunk by chunk, under keys and along poses."""

import threading

import numpy as np
import pytest
import torch

from moworld.camera import controls_to_c2w
from moworld.camera.cameras import resize_to_cover
from moworld.errors import InputError
from moworld.inference import WorldSession
from moworld.inference.session import stream
from moworld.model.codec import StreamingCodec
from moworld.model.rollout import Rollout, roll_out, world_generator
from tests.moworld.inference.worlds import Letters, picture, served_world

CONTROLS = ["wl*12", "il*6,wi*6", "wj*12"]  # turns while the view is pitched


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    return served_world(tmp_path_factory.mktemp("codec"))


def opened(world, seed: int = 3) -> WorldSession:
    session = WorldSession(world, Letters())
    session.open(picture(), "a hall", seed=seed)
    return session


def test_a_chunk_is_twelve_frames_and_the_first_frame_one(world):
    session = WorldSession(world, Letters())
    first = session.open(picture(), "a hall")
    chunk = session.step("w*12")
    assert first.shape == (1, 16, 32, 3) and chunk.shape == (session.chunk_frames, 16, 32, 3) == (12, 16, 32, 3)
    assert first.dtype == chunk.dtype == np.uint8


@torch.inference_mode()
def test_a_session_equals_the_rollout_of_training(world):
    session = opened(world)
    for controls in CONTROLS:
        session.step(controls)
    config = world.config
    c2w = controls_to_c2w(",".join(CONTROLS), step=config.move_units, degrees=config.yaw_degrees)
    resized = resize_to_cover(picture(), (config.height, config.width))
    rollout = Rollout(
        world.experts, session.rollout.bank.latents[:, :, :1], Letters().encode(["a hall"]), torch.tensor([config.intrinsics]),
        schedule=config.schedule, policy=config.model.history, chunk_latents=3, generator=world_generator(3, resized),
    )  # fmt: skip
    whole = roll_out(rollout, torch.as_tensor(c2w[None, 1:], dtype=torch.float32))
    assert torch.equal(session.rollout.bank.latents, whole)


def test_keys_in_chunks_give_the_poses_of_the_whole_string_even_when_pitched(world):
    session, other = opened(world), opened(world)
    config = world.config
    c2w = controls_to_c2w(",".join(CONTROLS), step=config.move_units, degrees=config.yaw_degrees)[1:]
    for index, controls in enumerate(CONTROLS):
        assert np.array_equal(session.step(controls), other.step(c2w[12 * index : 12 * index + 12]))


def test_keys_after_poses_continue_from_there(world):
    session, other = opened(world), opened(world)
    c2w = controls_to_c2w("wl*12,w*12", step=world.config.move_units, degrees=world.config.yaw_degrees)[1:]
    session.step(c2w[:12])
    other.step("wl*12")
    np.testing.assert_array_equal(session.step("w*12"), other.step("w*12"))


def test_a_changed_prompt_takes_effect_from_the_next_chunk_on_over_the_given_chunks(world):
    session, plain = opened(world), opened(world)
    assert (session.step("w*12") == plain.step("w*12")).all()
    session.change_prompt("a hall in a storm", chunks=2)  # of 17 letters; the first of 6
    texts, frames = [], []
    for _ in range(3):
        frames.append((session.step("w*12"), plain.step("w*12")))
        texts.append(float(session.rollout.text[0, 0, 0]))
    assert texts == [(6 + 17) / 2, 17, 17] and all((changed != kept).any() for changed, kept in frames)
    session.change_prompt("", chunks=0)
    session.step("w*12")
    assert float(session.rollout.text.abs().max()) == 0
    with pytest.raises(InputError, match="no open world"):
        WorldSession(world, Letters()).change_prompt("x")


def test_missing_keys_are_no_keys_and_the_seed_decides_the_world(world):
    assert np.array_equal(opened(world).step("w*4"), opened(world).step([{"w"}] * 4 + [set()] * 8))
    assert np.array_equal(opened(world).step("w*12"), opened(world).step("w*12"))
    assert not np.array_equal(opened(world).step("w*12"), opened(world, seed=4).step("w*12"))
    assert not np.array_equal(opened(world).step("w*12"), opened(world).step("s*12"))


@torch.inference_mode()
def test_worlds_of_different_pictures_get_different_noise_even_where_their_latents_are_equal(world):
    class Blind:  # encodes every picture to the same latents
        def encode(self, video):
            return torch.zeros(1, 16, 1, *(size // 8 for size in video.shape[-2:]))

        def decode_chunk(self, latents, cache):
            return world.codec.decode_chunk(latents, cache)

    def latents(first_frame, seed=3):
        session = WorldSession(world, Letters(), Blind())
        session.open(first_frame, "a hall", seed=seed)
        return session.denoise("w*12")

    one, other = picture(), 255 - picture()
    assert torch.equal(latents(one), latents(one))
    assert not torch.allclose(latents(one), latents(other), atol=0.01)
    assert not torch.allclose(latents(one), latents(one, seed=4), atol=0.01)


class WaitingCodec:
    """A codec that decodes a chunk only after the next one was denoised."""

    def __init__(self, codec: StreamingCodec) -> None:
        self.codec, self.denoising, self.decoding = codec, threading.Event(), threading.Event()

    def encode(self, video):
        return self.codec.encode(video)

    def decode_chunk(self, latents, cache):
        if cache is not None:
            self.decoding.set()
            assert self.denoising.wait(60), "nothing was denoised meanwhile"
        return self.codec.decode_chunk(latents, cache)


def test_a_stream_denoises_a_chunk_while_the_one_before_is_decoded(world):
    codec = WaitingCodec(world.codec)

    class Session(WorldSession):
        def denoise(self, controls):
            if controls == CONTROLS[1]:
                assert codec.decoding.wait(60)  # the first chunk is being decoded, and cannot be finished before this one is denoised
            latents = super().denoise(controls)
            if controls == CONTROLS[1]:
                codec.denoising.set()
            return latents

    session, alone = Session(world, Letters(), codec), opened(world, seed=0)
    session.open(picture(), "a hall")
    frames = list(stream(session, CONTROLS))
    assert all(np.array_equal(one, alone.step(controls)) for one, controls in zip(frames, CONTROLS, strict=True))


def test_the_decoder_carries_its_cache_between_chunks(world):
    session = opened(world)
    frames = np.concatenate([session.step(controls) for controls in CONTROLS])
    with torch.inference_mode():
        video = world.codec.decode(session.rollout.bank.latents)[0, :, 1:]
    whole = ((video + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
    assert np.abs(frames.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.step("w*13"), "at most 12"),
        (lambda s: s.step("q*3"), "q"),
        (lambda s: s.step(np.eye(4)[None]), r"\(12, 4, 4\)"),
        (lambda s: s.open(np.zeros((4, 4), np.uint8)), "uint8"),
        (lambda s: s.open(np.zeros((4, 4, 3), np.float32)), "uint8"),
    ],
)
def test_bad_calls_are_one_line(world, call, words):
    with pytest.raises(InputError, match=words):
        call(opened(world))


def test_a_step_before_open_is_refused(world):
    with pytest.raises(InputError, match="open"):
        WorldSession(world, Letters()).step("w")


def test_chunks_may_be_shorter_than_trained_and_not_longer(world):
    session = WorldSession(world, Letters(), chunk_latents=1)
    session.open(picture(), "a hall")
    assert session.step("wl*4").shape == (4, 16, 32, 3)
    with pytest.raises(InputError, match="chunk_latents"):
        WorldSession(world, Letters(), chunk_latents=4)
