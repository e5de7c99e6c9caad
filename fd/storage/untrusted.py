"""Text, JSON and YAML that somebody else wrote, read in little time and memory whatever they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from fd.errors import FdError, one_line

MOST_BYTES = 2**18  # of settings; those of the whole benchmark have 80,000
MOST_VALUES = 10**4  # of settings, keys as well; a few nested aliases can stand for any number of values
MOST_TEXT = 1000  # characters of a value; a number of more takes long to read
DEEPEST = 16  # lists and mappings within each other

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Text of a file of up to `most` bytes.

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
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FdError(f"{path}: cannot be read: byte {error.start} is no UTF-8 ({error.reason})") from None


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Value of a JSON file of up to `most` bytes.

    Raises:
        FdError: it cannot be read, is larger, or is no JSON.
    """
    text = read_text(path, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FdError(f"{path}: not a JSON file ({error})") from None


def read_yaml(text: str, place: str) -> Any:
    """Value of a YAML document of mappings with text as keys, lists, text, numbers, truth values and null.

    Args:
        text: the document.
        place: what messages call it.

    Raises:
        FdError: it is something else, a key stands twice in a mapping, or it is large or deep beyond all settings.
    """
    try:
        value = yaml.load(text, _Loader)
        size = _size(value, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = " ".join(filter(None, (error.context, error.problem)))
        raise FdError(f"{place}: not YAML: {told}" + (f" in line {mark.line + 1}" if mark else "")) from None
    except yaml.YAMLError as error:
        raise FdError(f"{place}: not YAML: {one_line(error)}") from None
    except RecursionError:
        raise FdError(f"{place}: nested too deeply, allowed: a mapping of sections") from None
    if size > MOST_VALUES:
        raise FdError(f"{place}: holds {size:.4g} values, aliases written out, allowed: up to {MOST_VALUES}")
    return value


class _Loader(yaml.SafeLoader):
    """Plain YAML of bounded size, in which a key that stands twice in a mapping is an error, as it is for DVC."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes, self._depth = self._nodes + 1, self._depth + 1
        if self._nodes > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES} keys and values", event)
        if self._depth > DEEPEST:
            raise _refused(f"nested too deeply, allowed: {DEEPEST} lists and mappings within each other", event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_TEXT:
            raise _refused(f"a value of {len(event.value)} characters, allowed: up to {MOST_TEXT}", event)
        node = super().compose_node(parent, index)
        assert node is not None
        if node.tag not in _TAGS and not (index is None and node.tag in _KEYS):
            raise _refused(f"a value of type {node.tag!r}, allowed: text, numbers, truth values, null", node)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, value in node.value:
            if key.tag == _KEYS[1] and not isinstance(value, yaml.MappingNode):
                raise _refused("`<<` takes over more than one mapping", key)
            if key.tag not in _KEYS:
                raise _refused(f"the key {_shown(key)} is no text, allowed: text, in quotes if need be", key)
            if key.value in known:
                raise _refused(f"the key {key.value!r} stands twice", key)
            known.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # which keeps what is overridden: ever more, when merges merge merges
        node.value = list({key.value: (key, value) for key, value in node.value}.values())
        self._nodes += len(node.value)
        if self._nodes > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES} keys and values, merges written out", node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError):
            raise _refused(f"{_shown(node)} is no value of type {node.tag!r}", node) from None


def _refused(problem: str, where: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    mark: Any = where.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _shown(node: yaml.Node) -> str:
    """A node as the file has it, cut where it is long."""
    return repr(node.value[:80]) if isinstance(node, yaml.ScalarNode) else f"of type {node.tag!r}"


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values a value holds; what aliases repeat, one object in memory, counts wherever it stands."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(
            _size(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]
