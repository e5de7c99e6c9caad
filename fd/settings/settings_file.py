"""A settings file; every program reads only the sections that it needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from fd.errors import FdError
from fd.settings.messages import known, validated
from fd.storage.untrusted import read_text, read_yaml

T = TypeVar("T")

LONGEST = 400  # characters of a message, without the name of the file


@dataclass(frozen=True)
class SettingsFile:
    """The values of a file that has passed the check of the whole file; made by `read_settings`."""

    values: dict[str, Any]

    @property
    def suite(self) -> str:
        """Name of the report."""
        return str(self.values["suite"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds."""
        return tuple(self.values["seeds"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the file."""
        return tuple(self.values["tasks"])

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order of the file."""
        return tuple(self.values["methods"])

    def at(self, *place: str) -> Any:
        """The value at a place, `at("tasks", "umaze", "data")`; FdError if there is none."""
        value: Any = self.values
        for depth, key in enumerate(place):
            known(key, value, ".".join(place[:depth]))
            value = value[key]
        return value

    def part(self, kind: type[T] | TypeAdapter[T], *place: str) -> T:
        """The value at a place as an instance of `kind`; FdError if there is none."""
        return validated(kind, self.at(*place), *place)

    def section(self, model: type[T], name: str, task: str | None = None, method: str | None = None) -> T:
        """A section with the overrides of a task.

        Args:
            model: of the section.
            name: of the section.
            task: name of a task; its overrides of the section apply.
            method: name of a method; its overrides apply next, then the task's overrides for it; only for the section `refine`.

        Raises:
            FdError: there is no such task or method, or the section is invalid with the overrides.
        """
        merged, place = dict(self.at(name)), list[str]()
        if task is not None:
            merged |= self.at("tasks", task)[name]
            place = [f"tasks.{task}"]
        if task is not None and method is not None:
            merged |= self.at("methods", method)[name] | self.at("tasks", task)["methods"].get(method, {})
            place = [f"tasks.{task} with methods.{method}"]
        return validated(model, merged, *place, name)


def read_settings(path: Path) -> SettingsFile:
    """The settings in a file.

    Raises:
        FdError: the file cannot be read, is not YAML, or breaks a rule of any of its sections.
    """
    return parse_settings(read_text(path), str(path))


def parse_settings(text: str, place: str) -> SettingsFile:
    """The settings in a text; messages call it `place`.

    Raises:
        FdError: the text is not YAML, or breaks a rule of any of its sections.
    """
    values = read_yaml(text, place)
    if not isinstance(values, dict):
        raise FdError(f"{place}: holds {type(values).__name__}, allowed: a mapping of sections")
    settings = SettingsFile(values)
    # Not an import statement: a stage depends on the code that it imports, and must import only the sections that it reads, but the
    # check imports every section. The check can refuse a file, but changes no result of a stage.
    whole_file = importlib.import_module("fd.settings.whole_file")
    try:
        whole_file.check_whole_file(settings)
    except FdError as error:
        raise FdError(f"{place}: {str(error)[:LONGEST]}") from None
    return settings
