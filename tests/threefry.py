"""Random numbers of JAX, to redraw what the recordings name but do not hold: Threefry-2x32, keys split as in JAX 0.5 and later."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Key = tuple[np.uint32, np.uint32]
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def key_of(seed: int) -> Key:
    """The key of a seed below 2**32."""
    return np.uint32(0), np.uint32(seed)


def child(key: Key, *path: int) -> Key:
    """The key at the end of a path of splits; child i of a split is the same whatever the number of children."""
    for index in path:
        first, second = _threefry(key, np.zeros(1, np.uint32), np.full(1, index, np.uint32))
        key = first[0], second[0]
    return key


def normal(key: Key, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    size = math.prod(shape)
    high, low = _threefry(key, np.zeros(size, np.uint32), np.arange(size, dtype=np.uint32))
    bits = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    unit = ((bits >> np.uint64(12)) | np.uint64(0x3FF0000000000000)).view(np.float64) - 1
    low_end = np.nextafter(-1.0, 0.0)
    uniform = np.maximum(low_end, unit * (1 - low_end) + low_end)
    return math.sqrt(2) * torch.erfinv(torch.from_numpy(uniform)).reshape(shape)


def _threefry(key: Key, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """20 rounds of Threefry-2x32 (Salmon et al. 2011) on pairs of counters."""
    with np.errstate(over="ignore"):
        keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
        first, second = first + keys[0], second + keys[1]
        for block in range(5):
            for rotation in ROTATIONS[block % 2]:
                first = first + second
                second = (second << np.uint32(rotation)) | (second >> np.uint32(32 - rotation))
                second = first ^ second
            first = first + keys[(block + 1) % 3]
            second = second + keys[(block + 2) % 3] + np.uint32(block + 1)
    return first, second
