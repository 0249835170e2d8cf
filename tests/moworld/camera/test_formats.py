"""Camera files: published files are read, every format round-trips, and errors name file and row."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moworld.camera import Cameras, controls_to_c2w, read_cameras, se3, write_cameras
from moworld.camera.formats import read_camera_file, write_poses
from moworld.errors import InputError

DATA = Path(__file__).parents[3] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is absent")
LINGBOT, MATRIX = (480, 832), (720, 1280)
EXPECTED = {
    "lingbot-world/00": (961, LINGBOT), "lingbot-world/02": (957, LINGBOT), "lingbot-world/03": (269, LINGBOT),
    "matrix-game-3.5/first_person/case_0": (961, MATRIX), "matrix-game-3.5/third_person/case_1": (2000, (384, 688)),
    "matrix-game-3.5/suburban_street_6blocks/camera.npz": (505, (384, 688)), "lingbot-world/00/poses.npy": (961, LINGBOT),
}  # fmt: skip


def walk() -> Cameras:
    return Cameras.from_c2w([0.6, 0.9, 0.5, 0.5], controls_to_c2w("wl*5,di*4", step=2.5, degrees=4))


def assert_equal(one: Cameras, other: Cameras, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(one.intrinsics, other.intrinsics, atol=atol)
    np.testing.assert_allclose(one.w2c, other.w2c, atol=atol)


@needs_data
@pytest.mark.parametrize("name", EXPECTED)
def test_real_numpy_cameras_are_read(name: str):
    length, image_hw = EXPECTED[name]
    cameras = read_cameras(DATA / name, image_hw)
    assert len(cameras) == length
    np.testing.assert_allclose(cameras.intrinsics[:, 2:], 0.5, atol=2e-3)
    np.testing.assert_allclose(cameras.c2w @ cameras.w2c, np.broadcast_to(np.eye(4), cameras.w2c.shape), atol=1e-3)


@needs_data
def test_pixel_intrinsics_are_normalised_by_the_documented_sizes():
    raw = np.load(DATA / "lingbot-world/00/intrinsics.npy")[0]
    np.testing.assert_allclose(read_cameras(DATA / "lingbot-world/00", LINGBOT).intrinsics[0], raw / [832, 480, 832, 480])
    path = DATA / "matrix-game-3.5/first_person/case_0/camera.npz"
    np.testing.assert_allclose(read_cameras(path, MATRIX).intrinsics, np.load(path)["intrinsics"] / np.array([1280, 720, 1280, 720]))


@needs_data
def test_every_published_realestate10k_file_is_read():
    paths = sorted([*(DATA / "cameractrl/pose_files").glob("*.txt"), *(DATA / "videox-fun/poses").glob("*.txt")])
    assert len(paths) >= 10
    for path in paths:
        rows = [line.split() for line in path.read_text().splitlines()[1:] if line.strip()]
        cameras = read_cameras(path)
        assert len(cameras) == len(rows)
        np.testing.assert_allclose(cameras.w2c[-1, :3].ravel(), np.array(rows[-1][7:], dtype=float))
        np.testing.assert_allclose(cameras.intrinsics[-1], np.array(rows[-1][1:5], dtype=float))


@needs_data
def test_a_published_path_closes_its_loop_and_another_has_its_jump():
    loop = read_cameras(DATA / "matrix-game-3.5/first_person/case_0", MATRIX).c2w[:, :3, 3]
    apart = np.linalg.norm(loop[640:, None] - loop[None, :320], axis=-1).min(axis=1)
    assert apart.min() < 0.03
    jump = read_cameras(DATA / "matrix-game-3.5/suburban_street_6blocks/camera.npz", (384, 688))
    assert se3.rotation_steps_degrees(jump.c2w).max() == pytest.approx(25.9, abs=0.05)


def test_realestate10k_text_round_trips(tmp_path: Path):
    write_cameras(tmp_path / "c.txt", walk())
    assert_equal(read_cameras(tmp_path / "c.txt"), walk())


def test_numpy_pairs_round_trip(tmp_path: Path):
    write_poses(tmp_path, walk(), image_hw=(480, 832))
    assert_equal(read_cameras(tmp_path, image_hw=(480, 832)), walk())
    assert_equal(read_cameras(tmp_path / "poses.npy", image_hw=(480, 832)), walk())


def rows_of(tmp_path: Path) -> list[str]:
    write_cameras(tmp_path / "good.txt", walk())
    return (tmp_path / "good.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: " ".join(row.split()[:-1]), "line 4: found 18 numbers"),
        (lambda row: row + " 1", "line 4: found 20 numbers"),
        (lambda row: row.replace("0 0 ", "0 zero ", 1), "line 4"),
        (lambda row: " ".join([*row.split()[:7], *["0"] * 12]), "row 2: found a matrix that is not a rotation"),
        (lambda row: " ".join([*row.split()[:7], "-1", *"000010000", "1", "0"]), "row 2: found a matrix that is not a rotation"),
        (lambda row: " ".join([*row.split()[:7], "nan", *row.split()[8:]]), "row 2: found NaN"),
        (lambda row: " ".join([*row.split()[:-1], "1e200"]), "row 2: found a translation of 1e\\+200"),
        (lambda row: " ".join([row.split()[0], "0", *row.split()[2:]]), "row 2: found intrinsics"),
    ],
)
def test_an_invalid_row_is_named(tmp_path: Path, change, message: str):
    rows = rows_of(tmp_path)
    rows[3] = change(rows[3])
    (tmp_path / "bad.txt").write_text("\n".join(rows))
    with pytest.raises(InputError, match=rf"bad\.txt: {message}"):
        read_cameras(tmp_path / "bad.txt")


def test_invalid_numpy_cameras_are_rejected(tmp_path: Path):
    write_poses(tmp_path, walk(), image_hw=(480, 832))
    np.save(tmp_path / "intrinsics.npy", np.ones((4, 4)))
    with pytest.raises(InputError, match=r"\(4, 4\) for 10 poses"):
        read_cameras(tmp_path)
    (tmp_path / "intrinsics.npy").unlink()
    with pytest.raises(InputError, match=r"intrinsics\.npy"):
        read_cameras(tmp_path)
    np.save(tmp_path / "intrinsics.npy", np.ones(4))
    np.save(tmp_path / "poses.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="without pickles"):
        read_cameras(tmp_path)


def test_other_files_are_rejected(tmp_path: Path):
    for name, content in {"a.txt": b"", "b.txt": b"\xff\xfe\x00", "c.npz": b"no", "d.json": b"{}", "e.npy": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_cameras(tmp_path / name)
    for missing in ("none.txt", "."):
        with pytest.raises(InputError):
            read_cameras(tmp_path / missing)


def lying_header(shape: tuple[int, ...]) -> bytes:
    """A .npy file whose header says `shape`, with 64 bytes after it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


@pytest.mark.parametrize(
    ("member", "found"),
    [
        (lying_header((10**9, 4, 4)), "numbers as its header says"),
        (lying_header((10**30, 4, 4)), "numbers as its header says"),
        (lying_header((2, 4, 4)), "numbers as its header says"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64), "without pickles"),
        (b"\x93NUMPY\x09\x00" + bytes(64), "format"),
        (bytes(300_000_000), "at most 1000000 cameras"),
    ],
    ids=["a terabyte", "more than any", "shorter", "a long header", "a version", "compressed zeros"],
)
def test_arrays_that_say_or_hold_more_than_cameras_need_are_refused_before_they_are_read(tmp_path: Path, member: bytes, found: str):
    for name in ("extrinsics_c2w", "intrinsics"):
        others = {"extrinsics_c2w": np.eye(4)[None], "intrinsics": np.ones((1, 4))}
        with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for other, array in others.items():
                stream = io.BytesIO()
                np.save(stream, array)
                archive.writestr(f"{other}.npy", member if other == name else stream.getvalue())
        tracemalloc.start()
        with pytest.raises(InputError, match=found):
            read_cameras(tmp_path / "c.npz")
        assert tracemalloc.get_traced_memory()[1] < 20e6
        tracemalloc.stop()
    (tmp_path / "poses.npy").write_bytes(member)
    np.save(tmp_path / "intrinsics.npy", np.ones(4))
    with pytest.raises(InputError, match=found):
        read_cameras(tmp_path)


def test_a_text_file_that_is_too_long_and_a_pipe_are_refused(tmp_path: Path):
    with open(tmp_path / "long.txt", "wb") as file:
        file.truncate(300 * 2**20)
    os.mkfifo(tmp_path / "pipe.npy")
    for name, found in (("long.txt", "at most"), ("pipe.npy", "no regular file")):
        with pytest.raises(InputError, match=found):
            read_cameras(tmp_path / name)


def archive(tmp_path: Path, intrinsics: object, change=lambda c2w: c2w, **others: object) -> Path:
    np.savez(tmp_path / "c.npz", extrinsics_c2w=change(walk().c2w.copy()), intrinsics=np.asarray(intrinsics), **others)
    return tmp_path / "c.npz"


PIXELS = [192.0, 162.0, 160.0, 90.0]


def test_a_lens_in_pixels_needs_the_size_of_the_pictures(tmp_path: Path):
    path = archive(tmp_path, PIXELS)
    with pytest.raises(InputError, match=r"c\.npz: intrinsics: found intrinsics in pixels \(192 162 160 90\) without an image size"):
        read_cameras(path)
    np.testing.assert_allclose(read_cameras(path, (180, 320)).intrinsics[0], [0.6, 0.9, 0.5, 0.5])


@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        ([768, 756, 480, 270], "found a principal point 480 270 in a picture of 320x180"),
        ([192, 162, 120, 68], "found a principal point 120 68"),
        ([256, 252, 0, 0], "found focal lengths 256, 252"),
        ([0.8, 1.4, 0.5, 1.2], "found a principal point 0.5, 1.2"),
        ([0.02, 1.4, 0.5, 0.5], "found focal lengths 0.02, 1.4"),
        ([[0.8, 1.4, 0.5, 0.5], *[PIXELS] * 9], "row 1: found pixels after fractions"),
        ([*[PIXELS] * 3, [np.nan] * 4, *[PIXELS] * 6], "row 3: found intrinsics"),
    ],
)
def test_an_implausible_lens_is_refused(tmp_path: Path, intrinsics: object, message: str):
    with pytest.raises(InputError, match=message):
        read_cameras(archive(tmp_path, intrinsics), (180, 320))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c2w: np.swapaxes(c2w, 1, 2), "which looks transposed, expected 0 0 0 1"),
        (lambda c2w: c2w * [[[1], [1], [1], [0]]], "row 0: found the last row 0 0 0 0"),
        (lambda c2w: c2w * [1.004, 1.004, 1.004, 1], "row 0: found a matrix that is not a rotation"),
    ],
)
def test_matrices_of_another_layout_are_refused(tmp_path: Path, change, message: str):
    with pytest.raises(InputError, match=message):
        read_cameras(archive(tmp_path, PIXELS, change), (180, 320))


def test_fields_that_are_not_used_are_named(tmp_path: Path):
    assert read_camera_file(archive(tmp_path, PIXELS, fps=24, depth_scale=1.0)).notes == ("not used: depth_scale, fps",)
    write_poses(tmp_path, walk(), image_hw=(480, 832))
    np.save(tmp_path / "action.npy", np.zeros(3))
    assert read_camera_file(tmp_path / "poses.npy").notes == ("not used: action.npy, c.npz",)
    write_cameras(tmp_path / "c.txt", walk(), url="https://example.org/v")
    assert read_camera_file(tmp_path / "c.txt").notes == ("not used: source https://example.org/v",)
    rows = [line.split(" ", 1)[1] for line in rows_of(tmp_path)[1:]]
    (tmp_path / "equal.txt").write_text("\n".join(["", *("0 " + row for row in rows)]))
    assert read_camera_file(tmp_path / "equal.txt").notes == ("not used: timestamps, which are all equal",)


def test_text_keeps_its_first_camera_whatever_comes_before_it(tmp_path: Path):
    rows = rows_of(tmp_path)[1:]
    for head in ([], ["https://example.org/v"], ["", "# timestamp fx fy cx cy"], ["\ufeffhttps://example.org/v", "# made by hand"]):
        (tmp_path / "c.txt").write_text("\r\n".join([*head, *rows]) + "\r\n", encoding="utf-8")
        assert_equal(read_cameras(tmp_path / "c.txt"), walk())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[::-1], "row 1: found timestamp 333333 after 375000"),
        (lambda rows: [*rows[:4], rows[3], *rows[5:]], "row 4: found timestamp 125000 after 125000"),
        (lambda rows: [row.replace(" ", ",") for row in rows], "line 1: found 1 numbers \\(separated by commas"),
        (lambda rows: [" ".join([*row.split()[:5], "-0.25", "0", *row.split()[7:]]) for row in rows], "found -0.25 0 in columns 6 and 7"),
        (lambda rows: [" ".join(row.split()[7:]) for row in rows], "found 12 numbers \\(KITTI poses"),
    ],
)
def test_text_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, change, message: str):
    (tmp_path / "c.txt").write_text("\n".join(change(rows_of(tmp_path)[1:])))
    with pytest.raises(InputError, match=message):
        read_cameras(tmp_path / "c.txt")


def test_rows_are_matched_to_frames_by_number_or_by_time(tmp_path: Path):
    write_cameras(tmp_path / "c.txt", walk(), fps=24)
    file = read_camera_file(tmp_path / "c.txt")
    assert file.at_frames(10, 24.0).notes == ()
    (note,) = file.at_frames(10, 12.0).notes
    assert "timestamps are 0.04167 s apart, the video's frames 0.08333 s" in note
    sparse = file.at_frames(5, 12.0).cameras()  # every second row's time
    np.testing.assert_allclose(sparse.w2c[:4], walk().w2c[:8:2], atol=1e-4)
    with pytest.raises(InputError, match=r"rows: found 10 cameras, expected 40, .* or timestamps over 1\.62 s instead of 0\.38 s"):
        file.at_frames(40, 24.0)
    with pytest.raises(InputError, match="rows: found 10 cameras, expected 9"):
        read_camera_file(archive(tmp_path, PIXELS)).at_frames(9, 24.0)
