"""How training goes on online, from section `online` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Within
from fd.method.spec import Behaviour
from fd.settings.messages import known
from fd.settings.settings_file import SettingsFile
from fd.settings.training_settings import Evaluated


class Finetuning(Evaluated):
    """Training that goes on from the end of `refine`: in every step each seed acts once in its simulator, and is updated."""

    updates: Annotated[int, Within(ge=1, le=1000)]  # a step
    balanced: bool  # half of a batch is of what the seed has met online; else all transitions are drawn alike
    behaviour: Behaviour


def finetuning(settings: SettingsFile, task: str, method: str) -> Finetuning:
    """How the training of a task and method goes on online; FdError when it does not."""
    known(method, settings.at("online", "methods"), "online.methods")
    return settings.part(Finetuning, "online", "tasks", task)
