"""HDR and wide gamut to SDR BT.709, as a 3D table for FFmpeg's filter lut3d (PyAV's FFmpeg has no zscale).

1. The signal becomes light: PQ (SMPTE ST 2084) absolute; HLG (ITU-R BT.2100) on a display of 1,000 cd/m2; SDR with exponent 2.4 (BT.1886).
2. HDR light is divided by 203 cd/m2, its diffuse white (ITU-R BT.2408).
3. Primaries are converted by a matrix; colours outside BT.709 are clipped.
4. HDR light above three quarters of white is compressed by extended Reinhard on the largest channel, which keeps the hue:
   1,000 cd/m2 becomes white, diffuse white 95 % of it.
5. Light becomes a signal with exponent 1 / 2.4.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer functions of ITU-T H.273
TRANSFERS = {PQ: "PQ", HLG: "HLG"}
GAMUTS = {9: "BT.2020", 11: "DCI-P3", 12: "P3"}  # primaries of ITU-T H.273
# red, green, blue, white: x, y
CHROMATICITIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)),
}
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
KNEE = 0.75  # of diffuse white
SDR_EXPONENT = 2.4
GRID = 33

Array = NDArray[np.float64]


def needs_table(transfer: int, primaries: int) -> bool:
    """Returns whether the colours are not SDR with primaries near BT.709's."""
    return transfer in TRANSFERS or primaries in GAMUTS


def to_sdr(signal: Array, transfer: int, primaries: int) -> Array:
    """Returns the BT.709 signal (..., 3), 0 to 1, of a non-linear RGB signal (..., 3), 0 to 1."""
    light = {PQ: pq_light, HLG: hlg_light}.get(transfer, lambda value: value**SDR_EXPONENT)(signal)
    if transfer in TRANSFERS:
        light = light / WHITE_NITS
    light = np.maximum(light @ gamut_matrix(primaries).T, 0)
    if transfer in TRANSFERS:
        largest = light.max(axis=-1, keepdims=True)
        light = light * (compressed(largest) / np.maximum(largest, 1e-9))
    return np.clip(light, 0, 1) ** (1 / SDR_EXPONENT)


def pq_light(signal: Array) -> Array:
    """Returns cd/m2 of a PQ signal (SMPTE ST 2084, eq. 4.1)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_light(signal: Array) -> Array:
    """Returns cd/m2 on a display of PEAK_NITS of an HLG signal (..., 3) with BT.2020 primaries (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return PEAK_NITS * scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2


def compressed(light: Array) -> Array:
    """Returns light, 1 is diffuse white, with the part above the knee compressed so that the peak becomes 1; slope 1 at the knee."""
    excess, most = np.maximum(light - KNEE, 0) / (1 - KNEE), (PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE)
    return np.minimum(light, KNEE) + (1 - KNEE) * np.minimum(excess * (1 + excess / most**2) / (1 + excess), 1)


def gamut_matrix(primaries: int) -> Array:
    """Returns the 3x3 matrix from linear RGB with these primaries to BT.709's; white stays white (von Kries in XYZ)."""
    source, target = (_to_xyz(CHROMATICITIES.get(number, CHROMATICITIES[1])) for number in (primaries, 1))
    adapted = np.diag(target.sum(axis=1) / source.sum(axis=1)) @ source
    return np.asarray(np.linalg.inv(target) @ adapted)


def _to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> Array:
    *primaries, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white)


@contextmanager
def table_file(transfer: int, primaries: int) -> Iterator[str]:
    """Writes a .cube file of `to_sdr` and gives its path; the file exists inside the context."""
    steps = np.linspace(0, 1, GRID)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes fastest
    table = to_sdr(np.stack([red, green, blue], axis=-1).reshape(-1, 3), transfer, primaries)
    with tempfile.NamedTemporaryFile("w", suffix=".cube") as stream:
        stream.write(f"LUT_3D_SIZE {GRID}\n")
        np.savetxt(stream, table, fmt="%.6f")
        stream.flush()
        yield stream.name
