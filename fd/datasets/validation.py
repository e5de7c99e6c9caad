"""Validation episodes of a data folder, which no training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fd.errors import FdError
from fd.storage.transitions import Manifest, Transitions, assemble, check_transitions, read_npz


def validation_episodes(folder: Path, manifest: Manifest) -> Transitions | None:
    """The validation episodes that were collected with a regenerated OGBench set; None for data that have none.

    Rewards are 0 and masks 1: these episodes are only for the behaviour flow.

    Args:
        folder: data folder of a task.
        manifest: its manifest.

    Raises:
        FdError: the file is damaged, or does not belong to the data.
    """
    found = sorted(folder.glob("regenerated/*-val.npz"))
    if not found:
        return None
    rows = read_npz(found[0], ["observations", "actions", "terminals"])
    ends, nothing = rows["terminals"].astype(np.bool_), np.zeros(len(rows["terminals"]))
    shapes = [list(rows[name].shape) for name in ("observations", "actions")]
    needed = [[len(ends), *manifest.obs_shape], [len(ends), manifest.act_dim]]
    if shapes != needed:
        raise FdError(f"{found[0]}: observations and actions have the shapes {shapes}, allowed: {needed}")
    arrays = assemble(
        str(found[0]), rows["observations"], rows["actions"], rewards=nothing, masks=nothing + 1, ends=ends
    )
    check_transitions(found[0], arrays)
    return arrays
