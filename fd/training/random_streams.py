"""Random streams that depend only on their address: (seed, purpose, block).

No state of a stream needs to be saved: a resumed run, a seed trained alone and a seed among others draw the same numbers.
A GPU draws other numbers than the CPU from the same stream, and large draws differ between kinds of GPU, too.
"""

from __future__ import annotations

import numpy as np
import torch

PURPOSES = ("weights", "pretrain", "bank", "scores", "refine", "online", "acting", "episodes")


def generator(seed: int, purpose: str, block: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator of one stream on a device.

    Args:
        seed: training seed, at least 0.
        purpose: one of PURPOSES.
        block: number of the stream's block, at least 0.
        device: of the generator.
    """
    state = np.random.SeedSequence([seed, PURPOSES.index(purpose), block]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
