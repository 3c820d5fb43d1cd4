"""Fetches published files so that they are there whole and right, or not at all: a file gets its name after its digest.

Files of the Hugging Face hub come through its own client, others through httpx. Nothing is continued from an earlier
call: what a killed one left is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.common.errors import UserError
from examples.common.files import atomic_write, make_folder, read_lines, sha256_of
from examples.common.lock import locked

TIMEOUT_SECONDS = 30  # without a single byte
TIME_LIMIT_SECONDS = 6 * 3600  # for one file, all tries together; GPT-2 Large at 150 kB/s
MOST_BYTES = 1 << 30  # of a file whose size is not published
BLOCK_BYTES = 1 << 20
SUMS_NAME = "SHA256SUMS"
SHA256 = re.compile("[0-9a-f]{64}")
GIT_BLOB = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of a model's repository: ``revision`` is a branch, a tag or a commit, ``endpoint`` the hub's address."""

    repository: str
    name: str
    revision: str
    endpoint: str


@dataclass(frozen=True)
class Download:
    """One file to fetch.

    Attributes:
        git_blob, sha256: its published id. Hub files have theirs from the hub. A file without any is checked by the
            digest of the first download, which ``SHA256SUMS`` beside it keeps.
        most_bytes: more are refused.
    """

    url: str
    path: Path
    git_blob: str | None = None
    sha256: str | None = None
    most_bytes: int = MOST_BYTES
    hub: HubFile | None = None


def fetch(
    download: Download,
    *,
    retries: int = 5,
    time_limit: float = TIME_LIMIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Makes sure that a file is there and is the right one.

    Args:
        download: what to fetch.
        retries: further tries before giving up; pauses of 1, 2, 4 ... seconds between them.
        time_limit: seconds for all of it.
        sleep: how to pause.

    Returns:
        What happened, in a line: downloaded or already there, and the digest.

    Raises:
        UserError: no such file, no connection, too slow, another call at work, or the wrong content, of which nothing
            is kept.
    """
    path = download.path
    if path.exists():
        return f"{path} is already there, {_verified(download, path)}"
    folder = make_folder(path.parent / f".{path.name}.partial")
    with locked(folder / "lock"), _time_limit(time_limit, download.url):
        try:
            for left in [entry for entry in folder.iterdir() if entry.name != "lock"]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            got = _retried(download, folder, retries, sleep)
            verdict = _verified(download, got)
            os.replace(got, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return f"{path} downloaded, {verdict}"


def git_blob_id(path: Path) -> str:
    """The id that git gives a file: SHA-1 of ``blob <size>``, a zero byte, and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _retried(download: Download, folder: Path, retries: int, sleep: Callable[[float], None]) -> Path:
    """Fetches into ``folder`` and returns the file there; each try begins from the start."""
    import httpx2

    get = _get if download.hub is None else _get_from_hub
    failures = 0
    while True:
        try:
            return get(download, folder)
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise UserError(f"{download.url}: not an address ({error})") from None
        except httpx2.HTTPError as error:
            response = getattr(error, "response", None)
            reason = str(error) or type(error).__name__
            if response is not None:
                reason = f"the server answered {response.status_code} {response.reason_phrase}"
                if response.status_code < 500 and response.status_code != 429:
                    raise UserError(f"{download.url}: {reason}") from None
        except OSError as error:  # of the hub's client; those of the system have a number
            if error.errno is not None:
                raise
            reason = str(error).splitlines()[0]
        failures += 1
        if failures > retries:
            raise UserError(f"{download.url}: {reason}; tried {failures} times")
        sleep(2.0 ** (failures - 1))


def _get(download: Download, folder: Path) -> Path:
    import httpx2

    path = folder / "content"
    options: dict[str, Any] = {
        "follow_redirects": True,
        "timeout": TIMEOUT_SECONDS,
        "headers": {"Accept-Encoding": "identity"},
    }
    with httpx2.stream("GET", download.url, **options) as response:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        with (
            path.open("wb") as stream,
            tqdm(desc=download.path.name, total=total, unit="B", unit_scale=True, delay=1, disable=None) as progress,
        ):
            for block in response.iter_raw(BLOCK_BYTES):
                if stream.tell() + len(block) > download.most_bytes:
                    raise UserError(f"{download.url}: more than the {download.most_bytes:,} bytes that it may have")
                stream.write(block)
                progress.update(len(block))
    return path


def _get_from_hub(download: Download, folder: Path) -> Path:
    """The file, checked by the id that the hub publishes for it: sha256 of large files, of others git's."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    assert download.hub is not None, download
    if not sys.stderr.isatty():
        disable_progress_bars()
    file = download.hub
    try:
        found = get_hf_file_metadata(download.url, token=False, timeout=TIMEOUT_SECONDS)
        if found.commit_hash is None or found.etag is None:
            raise UserError(f"{download.url}: no answer of a hub, which would name commit and digest")
        got = hf_hub_download(
            file.repository,
            file.name,
            revision=found.commit_hash,  # of this very answer, whatever the branch becomes meanwhile
            endpoint=file.endpoint,
            local_dir=folder,
            token=False,
            etag_timeout=TIMEOUT_SECONDS,
        )
    except OfflineModeIsEnabled:
        raise UserError(f"{download.url}: the variable HF_HUB_OFFLINE forbids downloads; unset it") from None
    if SHA256.fullmatch(found.etag):
        _compare(download, "sha256 of the hub", sha256_of(got), found.etag)
    elif GIT_BLOB.fullmatch(found.etag):
        _compare(download, "git blob id of the hub", git_blob_id(Path(got)), found.etag)
    else:
        raise UserError(f"{download.url}: the server's tag {found.etag!r} is no digest, so the file cannot be checked")
    return Path(got)


def _verified(download: Download, path: Path) -> str:
    """Checks the content at ``path`` by its published id or by the recorded digest; records a first download."""
    if download.git_blob is not None:
        _compare(download, "git blob id", git_blob_id(path), download.git_blob)
        return f"git blob id {download.git_blob}"
    sha256 = sha256_of(path)
    if download.sha256 is not None:
        _compare(download, "published sha256", sha256, download.sha256)
        return f"sha256 {sha256}"
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


@contextlib.contextmanager
def _time_limit(seconds: float, url: str) -> Iterator[None]:
    """Ends the block with a ``UserError`` after so many seconds, wherever it waits. In the main thread only."""

    def late(*_: object) -> None:
        raise UserError(f"{url}: not complete after {seconds:g} seconds; --time-limit gives it more")

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
