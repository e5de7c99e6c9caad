"""Published files: fetched once from the first host that has them, resumed after a break, and the same ever after."""

import hashlib
import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from fd.errors import FdError
from fd.runtime.progress import Progress
from fd.settings.data_settings import Download
from fd.storage.files import write_text
from fd.storage.untrusted import read_json


class HostError(ConnectionError):
    """What a host sent is not the file, or not all of it."""


FAILURES = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)


def fetch(name: str, download: Download, *, label: str) -> Path:
    """Return the npz file of that name in the folder of the downloads, fetched if it is not there.

    Beside it stands `<name>.json`, its record: bytes, SHA-256 and URL. Processes that want one file fetch it once.

    Args:
        name: of the file.
        download: the folder, and the base URLs, tried in order.
        label: what the progress is called.

    Raises:
        FdError: no host has the file, or not the one that is recorded.
    """
    path = Path(download.folder).expanduser() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with FileLock(_lock(path)):
        for mirror in () if path.exists() else download.mirrors:
            url = f"{mirror.rstrip('/')}/{name}"
            try:
                _persist(url, path, timeout=download.timeout, label=label)
                break
            except FAILURES as error:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
                reasons.append(f"{url}: {' '.join(reason.split())}")
    if not path.exists():
        raise FdError(f"{path}: no such file, and no host has it ({'; '.join(reasons) or 'download.mirrors is empty'})")
    return path


def verified(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, the same as at its first use, where they are recorded.

    Raises:
        FdError: the file is another than then.
    """
    found, record = describe(path), _record(path)
    if record.exists() and (recorded := _read(record)) != found["sha256"]:
        raise FdError(
            f"{path}: SHA-256 is {found['sha256']}, at its first use it was {recorded}:"
            f" remove the file to fetch it again, or {record.name} to use what it holds now"
        )
    return found


def remember(path: Path, found: dict[str, Any]) -> None:
    """Record size and SHA-256 of a file that has turned out to be what it should, unless they are recorded already."""
    with suppress(OSError), FileLock(_lock(path)):  # of a folder that can only be read
        if not _record(path).exists():
            write_text(_record(path), json.dumps(found) + "\n")


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _lock(path: Path) -> Path:
    """Who holds it fetches the file or records its facts."""
    return path.with_name(f".{path.name}.lock")


def _record(path: Path) -> Path:
    """Where the facts of a file are recorded."""
    return path.with_name(f"{path.name}.json")


def _read(record: Path) -> str:
    """SHA-256 of a record."""
    values = read_json(record)
    found = values.get("sha256") if isinstance(values, dict) else None
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
        raise FdError(f"{record}: not a record with a SHA-256; remove it to use the file beside it as it is")
    return found


def _persist(url: str, path: Path, *, timeout: float, label: str) -> None:
    """Fetch a file, again after a break as long as each attempt brings more of it."""
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
    """Fetch a file; its name appears once it is complete and recorded.

    What a break leaves is `.<name>.<key>.part`, whose key is that of the URL and of the version that the host gave it,
    so that parts of two files are never put together.
    """
    with urllib.request.urlopen(url, timeout=timeout) as response:
        version = _version(response.headers)
        total = response.length or 0
        key = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:16]
        part = path.with_name(f".{path.name}.{key}.part")
        start = part.stat().st_size if version and part.exists() else 0
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
    """What tells two versions of a file apart, for `If-Range`; empty when the host gives nothing reliable."""
    tag = str(headers.get("ETag") or "")
    return str(headers.get("Last-Modified") or "") if not tag or tag.startswith("W/") else tag


def _resume(url: str, part: Path, *, total: int, version: str, timeout: float, label: str) -> None:
    """Fetch what a part lacks; a host that sends the whole file starts it again."""
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-", "If-Range": version})
    with urllib.request.urlopen(request, timeout=timeout) as response:
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
    chunk = response.read(1 << 16)
    if start == 0 and (response.headers.get_content_type() == "text/html" or not chunk.startswith(b"PK")):
        raise HostError("the host answered with a page, not an npz file")
    with part.open("ab" if start else "wb") as file, Progress(total, label, unit="bytes", done=start) as progress:
        while chunk:
            progress.advance(file.write(chunk))
            chunk = _read_on(response)
        size = file.tell()
    if size < total:
        raise HostError(f"ended after {size} of {total} bytes")


def _read_on(response: http.client.HTTPResponse) -> bytes:
    """The next piece; a network that fails is the host's failure, unlike a disk that does."""
    try:
        return response.read(1 << 20)
    except OSError as error:
        raise HostError(str(error) or type(error).__name__) from error


def _publish(part: Path, path: Path, url: str) -> None:
    """Give a complete part its name and its record; one that is not the file is removed."""
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
