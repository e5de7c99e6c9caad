"""Snapshots: the parts of an agent that acting needs, at a training step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fd.method.agent import Agent
from fd.policy import snapshot_name
from fd.storage.tensors import write_tensors


def write_snapshot(folder: Path, agent: Agent, step: int, *, seeds: tuple[int, ...], origin: dict[str, Any]) -> None:
    """Writes the parts of an agent that acting needs; the flow only if this run trains it. `origin`: its task, method and data."""
    spec = agent.spec
    parts = {"policy": spec.policy != "flow", "critic": spec.critic != "none", "flow": spec.behaviour == "joint"}
    names = [name for name, needed in parts.items() if needed]
    tensors = {name: value for name, value in agent.state_dict().items() if name.split(".")[0] in names}
    record = {"spec": asdict(agent.spec), "seeds": seeds, "step": step, "origin": origin}
    write_tensors(folder / snapshot_name(step), tensors, record)
