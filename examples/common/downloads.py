"""Fetches files over HTTP so that they are whole or absent: resumed after a cut, retried, and checked by digest."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from examples.common.errors import UserError
from examples.common.files import atomic_write, make_folder, read_lines, sha256_of

TIMEOUT_SECONDS = 30  # without a single byte
BLOCK_BYTES = 1 << 20
SUMS_NAME = "SHA256SUMS"
SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')


@dataclass(frozen=True)
class Download:
    """One file to fetch. ``git_blob`` is its published id; files without one are checked by ``SHA256SUMS``."""

    url: str
    path: Path
    git_blob: str | None = None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the digest that the hub sends with the first answer only."""

    linked_etag: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.linked_etag = headers.get("X-Linked-Etag") or self.linked_etag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Cut(Exception):
    """The connection ended early; another try may go on from there."""


def fetch(download: Download, *, retries: int = 5, sleep: Callable[[float], None] = time.sleep) -> str:
    """Makes sure that a file is there and is the right one.

    An unfinished file stays beside it as ``<name>.partial`` and is continued, by this call or by a later one.

    Args:
        download: what to fetch.
        retries: tries in a row without a new byte before giving up; pauses of 1, 2, 4 ... seconds between them.
        sleep: how to pause.

    Returns:
        What happened, in a line: downloaded or already there, and the digest.

    Raises:
        UserError: no such file, no connection, or the wrong content, of which nothing is kept.
    """
    if download.path.exists():
        return f"{download.path} is already there, {_verified(download, download.path, None)}"
    make_folder(download.path.parent)
    partial = download.path.with_name(f"{download.path.name}.partial")
    published = _download(download.url, partial, retries, sleep)
    try:
        verdict = _verified(download, partial, published)
    except UserError:
        partial.unlink()
        raise
    os.replace(partial, download.path)
    return f"{download.path} downloaded, {verdict}"


def git_blob_id(path: Path) -> str:
    """The id that git gives a file: SHA-1 of ``blob <size>``, a zero byte, and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, partial: Path, retries: int, sleep: Callable[[float], None]) -> str | None:
    """Completes ``partial``; returns the SHA-256 that the server published, if it did."""
    failures = 0
    while True:
        before = _size(partial)
        try:
            return _continue(url, partial)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                raise UserError(f"{url}: the server answered {error.code} {error.reason}") from None
            reason = f"the server answered {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, _Cut) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            raise UserError(f"{url}: not an address ({error})") from None
        failures = 1 if _size(partial) > before else failures + 1
        if failures > retries:
            raise UserError(f"{url}: {reason}; tried {failures} times, run the command again to go on from here")
        sleep(2.0 ** (failures - 1))


def _continue(url: str, partial: Path) -> str | None:
    have = _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "lora-nlg", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    redirects = _Redirects()
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        # Nothing follows what we have: it was complete (the digest will tell), or it is of another file.
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return _published(redirects.linked_etag, error.headers)
        partial.unlink()
        raise _Cut("the unfinished file did not fit and was dropped") from None
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        start = have if goes_on else 0  # a server without ranges sends everything again
        _save(response, partial, start)
        return _published(redirects.linked_etag, response.headers)


def _save(response: http.client.HTTPResponse, partial: Path, start: int) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    name = partial.name.removesuffix(".partial")
    with (
        partial.open("ab" if start else "wb") as stream,
        tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, delay=1, disable=None) as progress,
    ):
        while block := response.read(BLOCK_BYTES):
            stream.write(block)
            progress.update(len(block))
    if total is not None and _size(partial) != total:
        raise _Cut(f"the connection ended after {_size(partial)} of {total} bytes")


def _published(linked_etag: str | None, headers: Any) -> str | None:
    """SHA-256 of the content, where an entity tag is one (large files of the Hugging Face hub)."""
    for tag in (linked_etag, headers.get("X-Linked-Etag"), headers.get("ETag")):
        if match := SHA256.fullmatch(tag or ""):
            return match.group(1)
    return None


def _verified(download: Download, path: Path, published: str | None) -> str:
    """Checks the content at ``path`` against the published digest and the recorded one; records a first download."""
    if download.git_blob is not None:
        _compare(download, "git blob id", git_blob_id(path), download.git_blob)
        return f"git blob id {download.git_blob}"
    sha256 = sha256_of(path)
    if published is not None:
        _compare(download, "sha256 of the server", sha256, published)
    sums_path = download.path.parent / SUMS_NAME
    sums = _read_sums(sums_path)
    recorded = sums.get(download.path.name)
    if recorded is not None:
        _compare(download, f"sha256 in {sums_path}", sha256, recorded)
        return f"sha256 {sha256} as recorded"
    sums[download.path.name] = sha256
    with atomic_write(sums_path) as stream:
        stream.writelines(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return f"sha256 {sha256} recorded in {sums_path}"


def _compare(download: Download, kind: str, got: str, expected: str) -> None:
    if got != expected:
        advice = "remove it to download it again" if download.path.exists() else "nothing was kept"
        raise UserError(f"{download.path} from {download.url}: {kind} should be {expected}, got {got}; {advice}")


def _read_sums(path: Path) -> dict[str, str]:
    """``SHA256SUMS`` as ``sha256sum`` writes it: file name to digest."""
    sums = {}
    if path.exists():
        for number, line in read_lines(path):
            digest, _, name = line.partition("  ")
            if not name or not SHA256.fullmatch(digest):
                raise UserError(f"{path} line {number}: expected '<sha256>  <file name>', got {line[:80]!r}")
            sums[name] = digest
    return sums


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
