"""Tone-map HDR frames (PQ, HLG) to BT.709 primaries with an sRGB-like gamma and 8 bits.

Light up to 92 nits keeps its ratio to reference white (203 nits). Brighter light is rolled off, so that 1000 nits map
to white and nothing below is clipped.

Source:
    Rec. ITU-R BT.2100 for PQ and HLG, BT.2408 for reference white, BT.2087 for the primaries, BT.2390 for the roll-off.
"""

from functools import cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16

__all__ = ["HDR", "hdr_name", "tone_mapped"]

HDR = {16: "PQ", 18: "HLG"}
"""FFmpeg's numbers for the two HDR transfer characteristics."""

REFERENCE_WHITE_NITS = 203.0
PEAK_NITS = 1000.0
"""Peak luminance of the mastering display."""
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
"""Constants of HLG's transfer function."""
_GAMMA = 1.2
"""System gamma of an HLG display with a peak of 1000 nits."""
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    dtype=np.float32,
)
"""Matrix from linear BT.2020 to linear BT.709."""
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
_STEPS = 4095
"""Number of steps in the lookup tables."""
_MOST_ROOT = float(np.sqrt(10_000 / REFERENCE_WHITE_NITS))
"""Square root of the brightest light that PQ can encode, in units of reference white."""


def hdr_name(frame: Any) -> str | None:  # noqa: ANN401 - PyAV is imported only when a file is opened
    """Return `PQ` or `HLG` for an HDR frame, None for any other."""
    return HDR.get(int(frame.color_trc))


def tone_mapped(picture: UInt16[np.ndarray, "row col rgb"], kind: str) -> UInt8[np.ndarray, "row col rgb"]:
    """Tone-map one HDR image to 8 bits.

    Args:
        picture: Coded BT.2020 values, 0 ... 65535.
        kind: `PQ` or `HLG`.

    Returns:
        The image with BT.709 primaries and sRGB's transfer curve.
    """
    linear = _linear(kind)[picture >> 4]  # in units of reference white
    if kind == "HLG":
        luma = (linear @ _LUMA_2020)[..., None]
        linear = linear * luma ** np.float32(_GAMMA - 1) * np.float32(PEAK_NITS / REFERENCE_WHITE_NITS)
    linear = np.maximum(cv2.transform(linear, _TO_709), np.float32(0))
    roots = cv2.sqrt(linear.max(axis=-1))
    shares = _shares()[np.minimum(roots * np.float32(_STEPS / _MOST_ROOT), _STEPS).astype(np.uint16)]
    coded = cv2.sqrt(linear * shares[..., None]) * np.float32(_STEPS) + np.float32(0.5)
    found: np.ndarray = _gamma()[np.minimum(coded, np.float32(_STEPS)).astype(np.uint16)]
    return found


@cache
def _linear(kind: str) -> Float32[np.ndarray, " code"]:
    """Linear light of each 12-bit code: for PQ in units of reference white, for HLG as a share of the scene's peak."""
    code = np.arange(_STEPS + 1) / _STEPS
    if kind == "HLG":
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - _C) / _A) + _B) / 12)
        return light.astype(np.float32)
    return (_pq_to_nits(code) / REFERENCE_WHITE_NITS).astype(np.float32)


@cache
def _shares() -> Float32[np.ndarray, " root"]:
    """Share of the light kept by BT.2390's roll-off from `PEAK_NITS` to reference white, by square root of light."""
    roots = np.linspace(0, _MOST_ROOT, _STEPS + 1)
    peak, white = _nits_to_pq(np.array([PEAK_NITS, REFERENCE_WHITE_NITS])).tolist()
    source = np.minimum(_nits_to_pq(roots**2 * REFERENCE_WHITE_NITS) / peak, 1)
    most = white / peak
    knee = 1.5 * most - 0.5
    t = np.clip((source - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    light = _pq_to_nits(np.where(source < knee, source, spline) * peak) / REFERENCE_WHITE_NITS
    return np.where(source < knee, 1, light / np.maximum(roots**2, 1e-9)).astype(np.float32)


@cache
def _gamma() -> UInt8[np.ndarray, " code"]:
    """Return the sRGB code for each square root of linear light, on a grid of `_STEPS`."""
    light = (np.arange(_STEPS + 1) / _STEPS) ** 2
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    found: np.ndarray = np.rint(coded * 255).astype(np.uint8)
    return found


def _pq_to_nits(code: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    power = code ** (1 / _M2)
    nits: np.ndarray = 10_000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)
    return nits


def _nits_to_pq(nits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    power = (nits / 10_000) ** _M1
    code: np.ndarray = ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
    return code
