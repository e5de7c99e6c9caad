"""Published files: fetched once from the first host that has them, resumed after a break, later checked by SHA-256."""

import hashlib
import http.client
import json
import os
import re
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from fd.errors import FdError, one_line
from fd.runtime.progress import Progress
from fd.settings.data_settings import Download
from fd.storage.files import digest, expanded, naming, write_text
from fd.storage.locks import locked
from fd.storage.outputs import make_room
from fd.storage.untrusted import read_json


class HostError(ConnectionError):
    """A host cannot be reached, or sent something other than the file, or only a part of it."""


FAILURES = (HostError, http.client.HTTPException)


def fetch(name: str, download: Download, *, label: str) -> Path:
    """Return the npz file of that name in the folder of the downloads, fetched if it is not there.

    `<name>.json` beside it records bytes, SHA-256 and URL. If several processes want a file, only one fetches it.

    Args:
        name: file name.
        download: the folder, and the base URLs, tried in order.
        label: name of the work in progress lines.

    Raises:
        FdError: no host has the file, or the hosts' file does not match the record.
    """
    path = expanded(download.folder, "download.folder") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with locked(_lock(path)):
        for mirror in () if path.exists() else download.mirrors:
            url = f"{mirror.rstrip('/')}/{name}"
            try:
                _persist(url, path, timeout=download.timeout, label=label)
                break
            except FAILURES as error:
                reasons.append(f"{url}: {one_line(error)}")
    if not path.exists():
        raise FdError(f"{path}: no such file, and no host has it ({'; '.join(reasons) or 'download.mirrors is empty'})")
    return path


def verified(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file; check the SHA-256 against the record of its first use, if there is one.

    Raises:
        FdError: the file has changed since its first use.
    """
    found, record = describe(path), _record(path)
    if record.exists() and (recorded := _read(record)) != found["sha256"]:
        raise FdError(
            f"{path}: SHA-256 is {found['sha256']}, at its first use it was {recorded}:"
            f" remove the file to fetch it again, or {record.name} to use the file as it is now"
        )
    return found


def remember(path: Path, found: dict[str, Any]) -> None:
    """Record size and SHA-256 of a file that was converted without errors, unless a record exists."""
    with suppress(OSError), locked(_lock(path)):  # the folder may be read-only
        if not _record(path).exists():
            write_text(_record(path), json.dumps(found) + "\n")


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _lock(path: Path) -> Path:
    """Lock file: the process that holds the lock fetches the file or writes its record."""
    return path.with_name(f".{path.name}.lock")


def _record(path: Path) -> Path:
    """Path of a file's record."""
    return path.with_name(f"{path.name}.json")


def _read(record: Path) -> str:
    """Read the SHA-256 in a record."""
    values = read_json(record)
    found = values.get("sha256") if isinstance(values, dict) else None
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
        raise FdError(f"{record}: not a record with a SHA-256; remove it to use the file beside it as it is")
    return found


def _persist(url: str, path: Path, *, timeout: float, label: str) -> None:
    """Fetch a file; after a break, try again as long as each attempt brings more of the file."""
    parts = f".{path.name}.*.part"
    while True:
        before = sum(part.stat().st_size for part in path.parent.glob(parts))
        try:
            _fetch(url, path, timeout=timeout, label=label)
        except FAILURES:
            if sum(part.stat().st_size for part in path.parent.glob(parts)) <= before:
                raise
        else:
            for part in path.parent.glob(parts):
                part.unlink()
            return


def _fetch(url: str, path: Path, *, timeout: float, label: str) -> None:
    """Fetch a file; it gets its name once it is complete and recorded.

    A break leaves `.<name>.<key>.part`. The key depends on the URL and on the host's version of the file, so parts of
    different files are never joined.
    """
    with _ask(url, timeout) as response:
        version = _version(response.headers)
        total = response.length or 0
        key = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:16]
        part = path.with_name(f".{path.name}.{key}.part")
        start = part.stat().st_size if version and part.exists() else 0
        make_room(path.parent, total - start)
        try:
            if not 0 < start <= total:
                _receive(response, part, start=0, total=total, label=label)
            elif start < total:
                _resume(url, part, total=total, version=version, timeout=timeout, label=label)
            _publish(part, path, url)
        finally:
            if not version:
                part.unlink(missing_ok=True)


def _version(headers: Any) -> str:
    """Identifier of a file's version for `If-Range`; empty if the host sends no reliable one."""
    tag = str(headers.get("ETag") or "")
    return str(headers.get("Last-Modified") or "") if not tag or tag.startswith("W/") else tag


def _resume(url: str, part: Path, *, total: int, version: str, timeout: float, label: str) -> None:
    """Fetch the rest of a part; start the part again if the host sends the whole file."""
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-", "If-Range": version})
    with _ask(request, timeout) as response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            expected = f"bytes {start}-{total - 1}/{total}"
            if response.headers.get("Content-Range") != expected:
                raise HostError(f"sent '{response.headers.get('Content-Range')}' instead of '{expected}'")
        elif _version(response.headers) != version:
            raise HostError("the file changed while it was fetched")
        else:
            start = 0
        _receive(response, part, start=start, total=total, label=label)


def _receive(response: http.client.HTTPResponse, part: Path, *, start: int, total: int, label: str) -> None:
    """Append a response to a part of `start` bytes."""
    chunk = _read_on(response)
    if start == 0 and (response.headers.get_content_type() == "text/html" or not chunk.startswith(b"PK")):
        raise HostError("the host answered with a page, not an npz file")
    with (
        naming(part),
        part.open("ab" if start else "wb") as file,
        Progress(total, label, unit="bytes", done=start) as progress,
    ):
        while chunk:
            progress.advance(file.write(chunk))
            chunk = _read_on(response)
        size = file.tell()
    if size < total:
        raise HostError(f"ended after {size} of {total} bytes")


def _ask(request: str | urllib.request.Request, timeout: float) -> Any:
    """Return a host's response; a network error, or an address that cannot be one, becomes a HostError."""
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except (OSError, ValueError) as error:
        raise HostError(one_line(getattr(error, "reason", error))) from error


def _read_on(response: http.client.HTTPResponse) -> bytes:
    """Read the next chunk; a network error becomes a HostError, an error of the disk does not."""
    try:
        return response.read(1 << 20)
    except OSError as error:
        raise HostError(one_line(error)) from error


def _publish(part: Path, path: Path, url: str) -> None:
    """Give a complete part its final name and its record; remove a part that is not the file."""
    found, record = describe(part), _record(path)
    try:
        if not zipfile.is_zipfile(part):
            raise HostError(f"sent {found['bytes']} bytes that are not an npz file")
        if not record.exists():
            write_text(record, json.dumps(found | {"url": url}) + "\n")
        elif (recorded := _read(record)) != found["sha256"]:
            raise HostError(f"SHA-256 is {found['sha256']}, at the file's first use it was {recorded} ({record})")
    except HostError:
        part.unlink()
        raise
    os.replace(part, path)
