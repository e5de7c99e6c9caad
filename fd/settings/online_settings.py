"""Online fine-tuning of a task and method, from section `online` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Within
from fd.method.spec import Behaviour
from fd.settings.messages import known
from fd.settings.settings_file import SettingsFile
from fd.settings.training_settings import Evaluated


class Finetuning(Evaluated):
    """Training that continues after `refine`: in every step, each seed acts once in its simulator and is updated."""

    updates: Annotated[int, Within(ge=1, le=1000)]  # per step
    balanced: bool  # half of a batch comes from the seed's online transitions; else all transitions are equally likely
    behaviour: Behaviour


def finetuning(settings: SettingsFile, task: str, method: str) -> Finetuning:
    """Settings for fine-tuning a task and method online; FdError if the file has none."""
    known(method, settings.at("online", "methods"), "online.methods")
    return settings.part(Finetuning, "online", "tasks", task)
