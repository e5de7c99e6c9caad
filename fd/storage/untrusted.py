"""Reads text, JSON and YAML from untrusted files, in little time and memory whatever their content."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent

from fd.errors import FdError, one_line

MOST_BYTES = 2**18  # of settings; those of the whole benchmark have 80,000
MOST_VALUES = 10**4  # of settings, keys included; a few nested aliases can expand to any number of values
MOST_TEXT = 1000  # characters of a value; a longer number takes long to read
DEEPEST = 16  # levels of lists and mappings


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Text of a file of up to `most` bytes, without the byte order mark that some editors put first.

    Raises:
        FdError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise FdError(f"{path}: cannot be read: is a directory or a device, allowed: a file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise FdError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise FdError(f"{path}: has more than {most} bytes, allowed: up to {most}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FdError(f"{path}: cannot be read: byte {error.start} is not UTF-8 ({error.reason})") from None


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Value of a JSON file of up to `most` bytes.

    Raises:
        FdError: it cannot be read, is larger, or is not JSON.
    """
    text = read_text(path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FdError(f"{path}: not a JSON file ({error})") from None


def read_yaml(text: str, place: str) -> Any:
    """Value of a YAML 1.2 document, as DVC reads it: mappings with text as keys, lists, text, numbers, truth values and null.

    Args:
        text: the document.
        place: its name in messages.

    Raises:
        FdError: it is not YAML, has other types or a duplicate key, or is too large or too deeply nested.
    """
    try:
        _check_size(YAML(typ="safe").parse(text), place)
        value = YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = one_line(" ".join(filter(None, (error.context, error.problem)))).split(" with value")[0]
        raise FdError(f"{place}: not YAML: {told}" + (f" in line {mark.line + 1}" if mark else "")) from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, FdError):
            raise
        raise FdError(f"{place}: not YAML: {one_line(error)}") from None
    _check_types(value, place, ())
    return value


def _check_size(events: Iterable[Event], place: str) -> None:
    """Raise an FdError if a document, its aliases expanded, holds too much; this is checked before any value is built."""
    sizes: dict[str, int] = {}  # of complete lists and mappings, by anchor
    open_: list[tuple[str | None, int]] = []  # enclosing lists and mappings: anchor, and values before
    count = 0
    for event in events:
        if isinstance(event, CollectionStartEvent):
            open_.append((event.anchor, count))
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = count + 1 - before
        elif isinstance(event, AliasEvent):
            count += sizes.get(event.anchor, 0)
        if (tag := getattr(event, "tag", None)) is not None:
            line = event.start_mark.line + 1
            raise FdError(f"{place}: the tag {tag!r} in line {line} cannot be read, allowed: values without a tag")
        if isinstance(event, ScalarEvent) and len(event.value) > MOST_TEXT:
            raise FdError(f"{place}: holds a value of {len(event.value)} characters, allowed: up to {MOST_TEXT}")
        if len(open_) > DEEPEST or (isinstance(event, AliasEvent) and event.anchor in {name for name, _ in open_}):
            raise FdError(f"{place}: nested too deeply, allowed: up to {DEEPEST} levels of lists and mappings")
        count += isinstance(event, CollectionStartEvent | ScalarEvent)
        if count > MOST_VALUES:
            raise FdError(f"{place}: holds too many keys and values (aliases expanded), allowed: up to {MOST_VALUES}")


def _check_types(value: Any, place: str, keys: tuple[str, ...]) -> None:
    """Raise an FdError if a value, or a key of a mapping, has a type that settings do not allow."""
    where = f"{place}: {'.'.join(keys)}" if keys else place
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FdError(f"{where}: the key {key!r} must be a string, allowed: text, in quotes if necessary")
            _check_types(item, place, (*keys, key))
    elif isinstance(value, list):
        for item in value:
            _check_types(item, place, keys)
    elif not isinstance(value, str | int | float | None):
        raise FdError(
            f"{where}: holds a {type(value).__name__}, allowed: text, in quotes if necessary, numbers, truth values, null"
        )
