"""Command `export`: the policy of one seed of a run -> one file, ONNX or torch.export, that acts without this project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.storage.files import digest, replacing
from fd.storage.outputs import check_file


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/<task>/<method>.")],
    seed: Annotated[int, typer.Option(help="Training seed whose policy is exported.")],
    out: Annotated[Path, typer.Option(help="File to write: *.onnx (ONNX) or *.pt2 (torch.export).")],
    step: Annotated[int | None, typer.Option(help="Training step; default: the last.")] = None,
    best_of: Annotated[int, typer.Option(help="Actions drawn per state; the one with the highest Q is taken.")] = 1,
    refinements: Annotated[int, typer.Option(help="Times that a residual is applied.")] = 1,
) -> None:
    """Export a policy: observation and standard normal noise in, action out, for any number of states."""
    from fd.export import FORMATS, Acting, of_one_seed  # imported here, because `fidec --help` needs no torch
    from fd.policy import Policy, snapshot_name

    if out.suffix not in FORMATS:
        raise FdError(f"--out: {out}, allowed: a name that ends in {' or '.join(FORMATS)}")
    if os.path.lexists(out):
        raise FdError(f"--out: {out}: exists already, allowed: a new file")
    if not out.parent.is_dir():
        raise FdError(f"--out: {out.parent}: no such folder, allowed: an existing one")
    check_file(out)
    policy = Policy.load(run, step)
    if seed not in policy.seeds:
        raise FdError(f"--seed: {seed}, allowed: those of {run}: {', '.join(map(str, policy.seeds))}")
    acting = Acting(of_one_seed(policy, seed), best_of=best_of, refinements=refinements)
    of_file = {"seed": seed, "step": policy.step, "snapshot_sha256": digest(run / snapshot_name(policy.step))}
    how = {"best_of": best_of, "refinements": refinements}
    content = FORMATS[out.suffix](acting, dict(policy.origin) | of_file | how)
    with replacing(out) as temporary:
        temporary.write_bytes(content)
    obs = "B, " + ", ".join(map(str, policy.spec.obs_shape))
    act_dim = policy.spec.act_dim
    print(f"{out}: obs [{obs}], noise [B, {best_of * act_dim}] -> action [B, {act_dim}]; {len(content)} bytes")
