# SPDX-License-Identifier: Apache-2.0
"""What may be fetched, and from where: the one place that says which schemes and addresses are allowed.

Tested in tests/golden/test_fetching.py.
"""

from __future__ import annotations

import http.client
import ipaddress
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from typing import Any

from fusion_replay.errors import MissingError, UsageError

OPTION = "--fetch-private"
SCHEMES = ("https", "http", "file")
_TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20


def refusal(url: str, *, private: bool) -> str:
    """Why ``url`` is not fetched, asked of it and of everything that it redirects to; empty where it may be.

    ``https`` to public addresses, and nothing else. ``private`` adds addresses of this machine and of its network
    (loopback, link-local, private, reserved: a stranger's golden must not make us ask what only we can reach), there
    over ``http`` too. A name is only known when it is connected to: then :func:`_refuse_peer` asks again.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        return f"{parts.scheme or 'no'} is no scheme to fetch from, https is; {OPTION} allows http"
    if not parts.hostname:
        return "it names no host"
    if not private and (parts.hostname == "localhost" or parts.hostname.endswith(".localhost")):
        return f"{parts.hostname} is this machine; {OPTION} allows it"
    try:
        return _refuse_address(parts.hostname, private)
    except ValueError:
        return ""  # a name


def fetch(url: str, *, private: bool) -> Generator[bytes, None, None]:
    """The bytes of ``url``, in blocks.

    Raises:
        MissingError: it may not be fetched, or can't be.
    """
    if why := refusal(url, private=private):
        raise MissingError(f"{url}: not fetched: {why}")
    try:
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Https(private),
            *((_Http(private),) if private else ()),
            _Redirects(private),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        with opener.open(url, timeout=_TIMEOUT) as answer:
            while block := answer.read(_BLOCK):
                yield block
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        why = " ".join(str(getattr(error, "reason", error)).split())  # of a redirect it has lines
        raise MissingError(f"{url}: can't be fetched: {why}") from None


class _RefusedError(OSError):
    """An address or a redirect that may not be followed."""


class _Peer(http.client.HTTPConnection):
    """Looks whom it is connected to before a byte is sent: a name may mean any address, and another one next time."""

    private = False

    def connect(self) -> None:
        super().connect()
        if why := _refuse_address(str(self.sock.getpeername()[0]).partition("%")[0], self.private):
            self.close()
            raise _RefusedError(f"{self.host} is {why}")


class _PeerTls(http.client.HTTPSConnection, _Peer):
    """As :class:`_Peer`, which HTTPSConnection calls before it speaks TLS."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, private: bool) -> None:
        super().__init__()
        self.private = private

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connection(_Peer, http.client.HTTPConnection, req, self.private), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, private: bool) -> None:
        super().__init__()
        self.private = private

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connection(_PeerTls, http.client.HTTPSConnection, req, self.private), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, private: bool) -> None:
        self.private = private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if why := refusal(newurl, private=self.private):
            raise _RefusedError(f"it redirects to {newurl}: {why}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _connection(guarded: Any, plain: Any, request: urllib.request.Request, private: bool) -> Any:
    """Whoever set a proxy decides whom it may reach: its own address is not asked about."""
    proxied = request.host != urllib.parse.urlsplit(request.full_url).netloc
    return plain if proxied else type(guarded.__name__, (guarded,), {"private": private})


def _refuse_address(address: str, private: bool) -> str:
    """Why not this one.

    Raises:
        ValueError: it is a name.
    """
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    found = found if mapped is None else mapped
    if private or (found.is_global and not found.is_multicast):
        return ""
    return f"{address}, an address that is not public; {OPTION} allows it"


def is_url(where: str) -> bool:
    """Whether it is a URL rather than a folder.

    Raises:
        UsageError: one of a kind that is never read.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return False
    if scheme not in SCHEMES:
        raise UsageError(f"golden-contents {where!r}: expected a folder, or a URL of {', '.join(SCHEMES)}")
    return True


__all__ = ["OPTION", "fetch", "is_url", "refusal"]
