# SPDX-License-Identifier: Apache-2.0
"""Contents over http: what was accepted is used, and nothing else; a server on this machine stands in for any."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fusion_replay.golden import check, remote
from fusion_replay.golden.add import add
from fusion_replay.golden.check import CheckOptions
from fusion_replay.golden.check_report import GoldenReport, GoldenResult
from golden_maker import record_workload


class Server(ThreadingHTTPServer):
    """Gives ``body`` for ``/data/x.h5``; ``longer`` bytes of it are announced and never sent."""

    body = b""
    longer = 0
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/moved/x.h5":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/data/x.h5")
        elif self.path == "/loop/x.h5":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/loop/x.h5")
        elif self.path == "/local/x.h5":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
        elif self.path == "/data/x.h5":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.body) + self.server.longer))
            self.end_headers()
            self.wfile.write(self.server.body)
            return
        else:
            self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), _Answers)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def golden(tmp_path: Path, goldens: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose contents only the server has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path, _ = add(record_workload(tmp_path / "x.h5", "op:ReLU", param=["size=256"]), goldens)
    contents = path.with_name("x.h5")
    server.body = contents.read_bytes()
    contents.unlink()
    configure(tmp_path, f"{server.url}/data/")
    return path


def configure(root: Path, url: str, more: str = "") -> None:
    (root / "pyproject.toml").write_text(f'[tool.fusion-replay]\ngolden-contents = "{url}"\n{more}\n')


def check_golden(path: Path, private: bool = True) -> GoldenResult:
    return check.check_golden(path, CheckOptions(fetch_private=private))


def check_folder(path: Path) -> GoldenReport:
    return check.check_folder(path, CheckOptions(fetch_private=True))


def kept(root: Path) -> list[Path]:
    return [p for p in (root / "cache").rglob("*") if p.is_file()]


def test_fetched_once_and_checked_at_every_use(golden: Path, server: Server, tmp_path: Path) -> None:
    assert check_golden(golden).passed
    assert check_golden(golden).passed
    assert server.asked == ["/data/x.h5"]
    (file,) = kept(tmp_path)
    assert file.read_bytes() == server.body
    file.write_bytes(b"spoilt")
    assert check_golden(golden).passed
    assert server.asked == ["/data/x.h5"] * 2


def test_another_file_of_the_same_size(golden: Path, server: Server, tmp_path: Path) -> None:
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    found = check_golden(golden)
    assert found.kinds == ("contents",)
    assert "/data/x.h5: SHA-256 " in found.headline
    assert found.headline.endswith("...: not used")
    assert kept(tmp_path) == []
    assert check_folder(golden.parent).exit_status == 3


def test_a_longer_one_is_not_read_to_its_end(golden: Path, server: Server, tmp_path: Path) -> None:
    size = len(server.body)
    server.body += bytes(100)
    found = check_golden(golden)
    assert found.kinds == ("contents",)
    assert f"/data/x.h5: longer than the {size:,} bytes that were accepted: not used" in found.headline
    assert kept(tmp_path) == []


def test_a_shorter_one(golden: Path, server: Server, tmp_path: Path) -> None:
    size = len(server.body)
    server.body = server.body[:-5]
    found = check_golden(golden)
    assert found.kinds == ("contents",)
    assert f"{size - 5:,} bytes, the golden was accepted with {size:,}: not used" in found.headline
    assert kept(tmp_path) == []


def test_a_connection_that_is_cut(golden: Path, server: Server, tmp_path: Path) -> None:
    server.body, server.longer = server.body[:-5], 5
    found = check_golden(golden)
    assert not found.passed
    assert found.kinds in (("contents",), ("missing",))
    assert "/data/x.h5: " in found.headline
    assert kept(tmp_path) == []


def test_larger_than_the_project_allows_is_not_asked_for(golden: Path, server: Server, tmp_path: Path) -> None:
    configure(tmp_path, f"{server.url}/data", "golden-max-bytes = 100")
    found = check_golden(golden)
    assert found.kinds == ("missing",)
    assert "golden-max-bytes allows 100: it was not fetched" in found.headline
    assert server.asked == []


def test_a_redirect_is_followed(golden: Path, server: Server, tmp_path: Path) -> None:
    configure(tmp_path, f"{server.url}/moved")
    assert check_golden(golden).passed
    assert server.asked == ["/moved/x.h5", "/data/x.h5"]


@pytest.mark.parametrize(
    ("where", "says"),
    [("none", "can't be fetched: "), ("loop", "can't be fetched: "), ("local", "can't be fetched: ")],
)
def test_what_leads_nowhere_is_missing(golden: Path, server: Server, tmp_path: Path, where: str, says: str) -> None:
    configure(tmp_path, f"{server.url}/{where}")
    found = check_golden(golden)
    assert found.kinds == ("missing",)
    assert f"{server.url}/{where}/x.h5: {says}" in found.headline
    assert "\n" not in found.headline
    assert kept(tmp_path) == []
    assert check_folder(golden.parent).exit_status == 4


def test_no_server(golden: Path, server: Server, tmp_path: Path) -> None:
    configure(tmp_path, "http://127.0.0.1:9")  # discard: nothing listens there
    assert "can't be fetched: " in check_golden(golden).headline
    assert check_folder(golden.parent).exit_status == 4


@pytest.mark.parametrize(
    ("url", "private", "allowed"),
    [
        ("https://example.org/x", False, True),
        ("https://8.8.8.8/x", False, True),
        ("http://example.org/x", False, False),
        ("http://example.org/x", True, True),
        ("ftp://example.org/x", True, False),
        ("file:///etc/hostname", True, False),
        ("https:///x", True, False),
        ("https://127.0.0.1/x", False, False),
        ("https://127.0.0.1/x", True, True),
        ("https://localhost/x", False, False),
        ("https://a.localhost/x", False, False),
        ("https://10.0.0.1/x", False, False),
        ("https://169.254.169.254/latest/meta-data", False, False),
        ("https://192.168.1.1/x", False, False),
        ("https://100.64.0.1/x", False, False),
        ("https://0.0.0.0/x", False, False),
        ("https://224.0.0.1/x", False, False),
        ("https://[::1]/x", False, False),
        ("https://[fe80::1]/x", False, False),
        ("https://[fd00::1]/x", False, False),
        ("https://[::ffff:127.0.0.1]/x", False, False),
    ],
)
def test_what_may_be_fetched(url: str, private: bool, allowed: bool) -> None:
    assert (remote.refusal(url, private=private) == "") is allowed


def test_this_machine_is_not_asked_without_leave(golden: Path, server: Server, tmp_path: Path) -> None:
    found = check_golden(golden, private=False)
    assert found.kinds == ("missing",)
    assert "not fetched: http is no scheme to fetch from" in found.headline
    configure(tmp_path, f"https://127.0.0.1:{server.server_port}/data")
    assert "an address that is not public; --fetch-private allows it" in check_golden(golden, private=False).headline
    assert server.asked == []


def test_a_name_that_means_this_machine(
    golden: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who it is shows when it is connected to: not one byte is sent."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    configure(tmp_path, f"https://contents.example.org:{server.server_port}/data")
    said = check_golden(golden, private=False).headline
    assert "contents.example.org is 127.0.0.1, an address that is not public" in said
    assert server.asked == []


def test_contents_that_are_a_device_or_a_fifo(golden: Path, tmp_path: Path) -> None:
    contents = golden.with_name("x.h5")
    contents.symlink_to("/dev/zero")
    assert "expected a file, found a device" in check_golden(golden).headline
    contents.unlink()
    os.mkfifo(contents)
    assert "expected a file, found a FIFO" in check_golden(golden).headline
    golden.unlink()
    os.mkfifo(golden)
    assert "expected a file, found a FIFO" in check_golden(golden).headline


def test_a_file_url_is_a_folder(golden: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.h5").write_bytes(server.body)
    configure(tmp_path, (tmp_path / "elsewhere").as_uri())
    assert check_golden(golden, private=False).passed
    configure(tmp_path, "file://other.example.org/x")
    assert "a file: URL of another machine" in check_golden(golden).headline
