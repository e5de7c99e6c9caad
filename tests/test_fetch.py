"""Published files: hosts that break off, change their mind or lie; records; processes that want the same file."""

import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import refused
from test_file_systems import largest_file

from fd.datasets.fetch import describe, fetch, remember, verified
from fd.errors import FdError
from fd.settings.data_settings import Download

NAME = "cube-single-play-v0.npz"


def npz(seed: int) -> bytes:
    """An npz file of some 400 kB."""
    file = io.BytesIO()
    np.savez(file, x=np.random.default_rng(seed).random(50_000))
    return file.getvalue()


CONTENT, OTHER = npz(0), npz(1)


@dataclass
class Route:
    """What a host sends below one path.

    Attributes:
        content: the whole file.
        tag: its ETag, or none.
        later: its ETag in answers to requests for a range.
        ranges: whether the host heeds Range.
        most: bytes after which it breaks off.
        claimed: bytes of the file more than it has, by its Content-Length.
        kind: content type.
        asked: Range of each request, with the bytes sent.
    """

    content: bytes = CONTENT
    tag: str | None = '"1"'
    later: str | None = '"1"'
    ranges: bool = True
    most: int = 10**9
    claimed: int = 0
    kind: str = "application/octet-stream"
    asked: list[tuple[str | None, int]] = field(default_factory=list)


class Host(http.server.BaseHTTPRequestHandler):
    """Serves the routes of its server, by the first part of the path."""

    def do_GET(self) -> None:
        routes: dict[str, Route] = self.server.routes  # type: ignore[attr-defined]
        route = routes.get(self.path.split("/")[1])
        if route is None:
            self.send_error(404)
            return
        wanted, start = self.headers.get("Range"), 0
        tag = route.later if wanted else route.tag
        if wanted and route.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        size = len(route.content)
        body = route.content[start : start + route.most]
        route.asked.append((wanted, len(body)))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", route.kind)
        self.send_header("Content-Length", str(size - start + route.claimed))
        self.end_headers()
        # The first request of a part is closed as soon as its headers are read.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def routes() -> dict[str, Route]:
    """Routes of the host; a test adds its own."""
    return {}


@pytest.fixture
def host(routes: dict[str, Route]) -> Iterator[str]:
    """URL of a host on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.routes = routes  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(folder: Path, host: str, *paths: str) -> Path:
    """The file, from the first of these paths of the host that has it."""
    mirrors = tuple(f"{host}/{path}" for path in paths)
    return fetch(NAME, Download(folder=str(folder), mirrors=mirrors, timeout=5.0), label="test")


def left(folder: Path) -> list[str]:
    """Names of the files in a folder, but for locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_whole_with_its_record(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes["a"] = Route()
    path = get(tmp_path / "new", host, "none", "a/")
    assert path.read_bytes() == CONTENT
    assert left(path.parent) == [NAME, f"{NAME}.json"]
    assert json.loads((path.parent / f"{NAME}.json").read_text()) == describe(path) | {"url": f"{host}/a/{NAME}"}
    assert verified(path) == describe(path)
    assert get(tmp_path / "new", host, "none") == path  # it is there: no host is asked
    assert len(routes["a"].asked) == 1


def test_a_download_goes_on_where_its_connection_broke(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes["a"] = Route(most=150_000)
    assert get(tmp_path, host, "a").read_bytes() == CONTENT
    ranges = [wanted for wanted, _ in routes["a"].asked if wanted]
    assert ranges == ["bytes=150000-", "bytes=300000-"]
    assert left(tmp_path) == [NAME, f"{NAME}.json"]


def test_a_file_that_the_disk_has_no_room_for_is_not_fetched(
    tmp_path: Path, host: str, routes: dict[str, Route]
) -> None:
    routes["a"] = Route(claimed=2**60)
    with pytest.raises(OSError, match="No space left on device") as error:
        get(tmp_path, host, "a")
    assert error.value.filename == str(tmp_path) and left(tmp_path) == []


def broken(folder: Path, host: str, routes: dict[str, Route], **changes: Any) -> Route:
    """A route `a` that broke off after 150 kB and could not be resumed, mended with changes."""
    routes["a"] = Route(most=150_000, ranges=False)
    with pytest.raises(FdError, match=r"/a/cube-single-play-v0\.npz: ended after 150000 of 400\d+ bytes"):
        get(folder, host, "a")
    assert not (folder / NAME).exists()
    assert [(folder / name).stat().st_size for name in left(folder)] == [150_000]
    routes["a"] = Route(**changes)
    return routes["a"]


def test_a_later_run_goes_on_where_an_earlier_one_broke(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    route = broken(tmp_path, host, routes)
    assert get(tmp_path, host, "a").read_bytes() == CONTENT
    assert route.asked[-1] == ("bytes=150000-", len(CONTENT) - 150_000)


def test_a_host_that_ignores_ranges_starts_again(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    route = broken(tmp_path, host, routes, ranges=False)
    assert get(tmp_path, host, "a").read_bytes() == CONTENT
    assert route.asked[-1] == ("bytes=150000-", len(CONTENT))


def test_parts_of_two_files_are_never_put_together(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    broken(tmp_path, host, routes, content=OTHER, tag='"2"', later='"2"')
    assert get(tmp_path, host, "a").read_bytes() == OTHER
    assert left(tmp_path) == [NAME, f"{NAME}.json"]


def test_a_file_that_changes_while_it_is_fetched_is_refused(
    tmp_path: Path, host: str, routes: dict[str, Route]
) -> None:
    broken(tmp_path, host, routes, later='"2"')
    with pytest.raises(FdError, match="the file changed while it was fetched"):
        get(tmp_path, host, "a")
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_a_host_that_names_no_version_is_not_resumed(
    tag: str | None, tmp_path: Path, host: str, routes: dict[str, Route]
) -> None:
    routes["a"] = Route(tag=tag, most=150_000)
    with pytest.raises(FdError, match="ended after"):
        get(tmp_path, host, "a")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (Route(content=b"<html>down</html>", kind="text/html"), "the host answered with a page, not an npz file"),
        (Route(content=b"<html>down</html>"), "the host answered with a page, not an npz file"),
        (Route(content=b""), "the host answered with a page, not an npz file"),
        (Route(content=b"PK and nothing more"), "sent 19 bytes that are not an npz file"),
    ],
)
def test_what_is_no_file_is_refused_and_the_next_host_asked(
    route: Route, message: str, tmp_path: Path, host: str, routes: dict[str, Route]
) -> None:
    routes["bad"] = route
    with pytest.raises(FdError) as error:
        get(tmp_path, host, "bad")
    assert f"{host}/bad/{NAME}: {message}" in str(error.value)
    assert left(tmp_path) == []
    routes["good"] = Route()
    assert get(tmp_path, host, "bad", "good").read_bytes() == CONTENT


def test_no_host_is_one_line_that_names_them_all(tmp_path: Path, host: str) -> None:
    start = f"{tmp_path / NAME}: no such file, and no host has it ({host}/{NAME}: Not Found"
    with refused("Connection refused", start=start):
        fetch(NAME, Download(folder=str(tmp_path), mirrors=(host, "http://127.0.0.1:9"), timeout=5.0), label="test")
    assert left(tmp_path) == []
    with pytest.raises(FdError, match=r"download\.mirrors is empty"):
        get(tmp_path, host)


def test_a_file_that_changed_is_refused(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes["a"] = Route()
    path = get(tmp_path, host, "a")
    path.write_bytes(OTHER)
    old, new = json.loads((tmp_path / f"{NAME}.json").read_text())["sha256"], describe(path)["sha256"]
    with refused(start=f"{path}: SHA-256 is {new}, at its first use it was {old}: remove the file"):
        verified(path)


def test_a_host_whose_file_changed_is_refused(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes |= {"old": Route(), "new": Route(content=OTHER)}
    path = get(tmp_path, host, "old")
    path.unlink()
    with pytest.raises(FdError, match=f"/new/{NAME}: SHA-256 is .* at the file's first use it was "):
        get(tmp_path, host, "new")
    assert left(tmp_path) == [f"{NAME}.json"]
    assert get(tmp_path, host, "new", "old").read_bytes() == CONTENT


def test_a_file_found_is_recorded_at_its_first_use(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    found = verified(path)
    assert found["bytes"] == len(CONTENT) and not (tmp_path / f"{NAME}.json").exists()
    remember(path, found)
    assert verified(path) == found
    path.write_bytes(OTHER)
    with pytest.raises(FdError, match="at its first use it was"):
        verified(path)
    (tmp_path / f"{NAME}.json").write_text("{}")
    with pytest.raises(FdError, match="not a record with a SHA-256"):
        verified(path)


def test_tasks_that_share_a_file_fetch_it_once(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes["a"] = Route()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(tmp_path, host, "a"), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(routes["a"].asked) == 1


def test_a_host_that_cannot_be_one_is_passed_over(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    routes["a"] = Route()
    mirrors = ("http://[::1", "http://x:y", f"{host}/a")
    assert (
        fetch(NAME, Download(folder=str(tmp_path), mirrors=mirrors, timeout=5.0), label="test").read_bytes() == CONTENT
    )
    (tmp_path / NAME).unlink()
    with refused("no host has it (http://[::1/", "Invalid IPv6 URL; http://x:y/"):
        fetch(NAME, Download(folder=str(tmp_path), mirrors=mirrors[:2], timeout=5.0), label="test")


def test_a_part_that_cannot_be_written_is_named(tmp_path: Path, host: str, routes: dict[str, Route]) -> None:
    """No host is to blame, and no other is asked."""
    routes["a"], routes["b"] = Route(), Route()
    with largest_file(100_000), pytest.raises(OSError, match="File too large") as error:
        get(tmp_path, host, "a", "b")
    assert Path(str(error.value.filename)).parent == tmp_path and str(error.value.filename).endswith(".part")
    assert routes["b"].asked == []
