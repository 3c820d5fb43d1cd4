"""Downloads against a server on loopback: cut connections, servers without ranges, wrong content, missing files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from text.sources import ALL, DEFAULT, REPOSITORY_FILES, WEIGHTS, downloads_of

from examples.common.downloads import SUMS_NAME, Download, fetch, git_blob_id
from examples.common.errors import UserError
from tests.nlg.data.programs import NLG, assert_one_error_line, run
from tests.shared_data import shared_path

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server has, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent in the next answers before the connection ends
    failures: list[int] = field(default_factory=list)  # status of the next answers
    redirect_etag: str | None = None  # answer /x by sending to /cdn/x, with this digest
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Range")))
            if state.failures:
                return self.send_error(state.failures.pop(0))
            if state.redirect_etag is not None and not self.path.startswith("/cdn"):
                self.send_response(302)
                self.send_header("X-Linked-Etag", f'"{state.redirect_etag}"')
                self.send_header("Location", f"/cdn{self.path}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            path = self.path.removeprefix("/cdn")
            if path not in state.files:
                return self.send_error(404)
            self.answer(state.files[path], state.etags.get(path))

        def answer(self, content: bytes, etag: str | None) -> None:
            start = 0
            asked = self.headers.get("Range")
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if etag:
                self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[start:end])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        state.files["/file"] = CONTENT
        yield state
        http.shutdown()


class Pauses(list[float]):
    """Stands in for ``time.sleep``."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def download(server, tmp_path) -> Download:
    return Download(f"{server.url}/file", tmp_path / "new" / "file.bin")


def names(download: Download) -> set[str]:
    return {path.name for path in download.path.parent.iterdir()}


def test_a_file_arrives_whole_and_its_digest_is_recorded(download):
    assert SHA256 in fetch(download)
    assert download.path.read_bytes() == CONTENT
    assert names(download) == {"file.bin", SUMS_NAME}
    assert (download.path.parent / SUMS_NAME).read_text() == f"{SHA256}  file.bin\n"


def test_a_file_that_is_there_is_checked_and_not_fetched_again(server, download):
    fetch(download)
    server.asked.clear()
    assert "already there" in fetch(download)
    assert server.asked == []
    download.path.write_bytes(b"spoiled")
    with pytest.raises(
        UserError, match=r"file\.bin .* sha256 in .*SHA256SUMS should be .* remove it to download it again"
    ):
        fetch(download)
    assert download.path.read_bytes() == b"spoiled"


def test_a_later_download_must_match_the_recorded_digest(server, download):
    fetch(download)
    download.path.unlink()
    assert "as recorded" in fetch(download)
    download.path.unlink()
    server.files["/file"] = b"changed"
    with pytest.raises(UserError, match=f"should be {SHA256}, got .*; nothing was kept"):
        fetch(download)
    assert names(download) == {SUMS_NAME}


def test_digests_of_several_files_stand_in_one_list(server, download):
    fetch(download)
    server.files["/other"] = b"other"
    fetch(Download(f"{server.url}/other", download.path.with_name("a.bin")))
    lines = (download.path.parent / SUMS_NAME).read_text().splitlines()
    assert lines == [f"{hashlib.sha256(b'other').hexdigest()}  a.bin", f"{SHA256}  file.bin"]


def test_a_cut_connection_goes_on_where_it_ended(server, download):
    server.cut_after = [1000, 2000]
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, download):
    server.cut_after = [1000]
    with pytest.raises(
        UserError, match=r"the connection ended after 1000 of 10240 bytes; tried 1 times, run the command"
    ):
        fetch(download, retries=0, sleep=Pauses())
    assert names(download) == {"file.bin.partial"}
    fetch(download)
    assert download.path.read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=1000-"


def test_a_server_without_ranges_sends_everything_again(server, download):
    server.ranges, server.cut_after = False, [1000]
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-"]


def test_a_complete_unfinished_file_only_needs_its_name(server, download):
    download.path.parent.mkdir()
    download.path.with_name("file.bin.partial").write_bytes(CONTENT)
    fetch(download)
    assert download.path.read_bytes() == CONTENT


def test_an_unfinished_file_that_is_too_long_is_dropped(server, download):
    download.path.parent.mkdir()
    download.path.with_name("file.bin.partial").write_bytes(CONTENT + b"more")
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == CONTENT


def test_pauses_grow_while_nothing_arrives_and_start_again_after_a_byte(server, download):
    pauses = Pauses()
    server.failures, server.cut_after = [503, 429, 500], [10]
    fetch(download, retries=3, sleep=pauses)
    assert pauses == [1, 2, 4, 1]


def test_a_server_that_stays_broken_is_given_up(server, download):
    pauses = Pauses()
    server.failures = [503] * 3
    with pytest.raises(UserError, match="the server answered 503 Service Unavailable; tried 3 times"):
        fetch(download, retries=2, sleep=pauses)
    assert (len(server.asked), pauses) == (3, [1, 2])


def test_a_missing_file_is_not_asked_for_again(server, download):
    with pytest.raises(UserError, match=r"/none: the server answered 404"):
        fetch(Download(f"{server.url}/none", download.path))
    assert len(server.asked) == 1 and names(download) == set()


def test_no_server_is_one_line(server, download):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/file: .*; tried 2 times"):
        fetch(Download("http://127.0.0.1:9/file", download.path), retries=1, sleep=Pauses())
    with pytest.raises(UserError, match="nonsense: not an address"):
        fetch(Download("nonsense", download.path))


def test_a_wrong_blob_id_keeps_nothing(server, download):
    with pytest.raises(UserError, match=r"git blob id should be 0+, got [0-9a-f]{40}; nothing was kept"):
        fetch(Download(download.url, download.path, git_blob="0" * 40))
    assert names(download) == set()


def test_a_right_blob_id_needs_no_list(download):
    blob = hashlib.sha1(b"blob 10240\0" + CONTENT).hexdigest()
    assert blob in fetch(Download(download.url, download.path, git_blob=blob))
    assert names(download) == {"file.bin"}


@pytest.mark.parametrize("etag", ['"{}"', 'W/"{}"', "{}"])
def test_a_digest_in_the_entity_tag_is_checked(server, download, etag):
    server.etags["/file"] = etag.format(SHA256)
    fetch(download)
    download.path.unlink()
    (download.path.parent / SUMS_NAME).unlink()
    server.etags["/file"] = etag.format("0" * 64)
    with pytest.raises(UserError, match=r"sha256 of the server should be 0+"):
        fetch(download)
    assert names(download) == set()


def test_an_entity_tag_that_is_no_sha256_says_nothing(server, download):
    server.etags["/file"] = f'"{"0" * 40}"'
    fetch(download)


def test_the_digest_sent_with_a_redirect_is_checked_and_ranges_survive_it(server, download):
    server.redirect_etag, server.cut_after = SHA256, [1000]
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == CONTENT
    assert server.asked[-1] == ("/cdn/file", "bytes=1000-")
    download.path.unlink()
    server.redirect_etag = "0" * 64
    with pytest.raises(UserError, match=r"sha256 of the server should be 0+"):
        fetch(download)


def test_a_broken_list_of_digests_is_named(download):
    download.path.parent.mkdir()
    (download.path.parent / SUMS_NAME).write_text("what\n")
    with pytest.raises(UserError, match=r"SHA256SUMS line 1: expected '<sha256>  <file name>', got 'what'"):
        fetch(download)


def test_blob_ids_are_gits(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert git_blob_id(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # known to every git user


def test_published_blob_ids_are_those_of_the_real_files():
    for name in ("encoder.json", "vocab.bpe"):
        _, blob = REPOSITORY_FILES["vocab"][f"vocab/{name}"]
        assert git_blob_id(shared_path(f"data/gpt2_vocab/{name}")) == blob


def test_addresses_and_places_are_the_published_ones(tmp_path):
    (weights,) = downloads_of("gpt2-medium", tmp_path)
    assert weights.url == "https://huggingface.co/openai-community/gpt2-medium/resolve/main/pytorch_model.bin"
    assert weights.path == tmp_path / "pretrained_checkpoints" / "gpt2-medium-pytorch_model.bin"
    (weights,) = downloads_of("gpt2", tmp_path, weight_format="safetensors", revision="abc", hub_url="http://h/")
    assert weights.url == "http://h/openai-community/gpt2/resolve/abc/model.safetensors"
    assert weights.path.name == "gpt2-model.safetensors"
    e2e = downloads_of("e2e", tmp_path)
    assert [d.path.relative_to(tmp_path).as_posix() for d in e2e] == [
        f"data/e2e/{s}.txt" for s in ("train", "valid", "test")
    ]
    assert all(d.url.startswith("https://raw.githubusercontent.com/microsoft/LoRA/c4593f060e6a") for d in e2e)


def test_the_default_fetches_what_the_datasets_script_and_the_model_cards_read(tmp_path):
    paths = {d.path.relative_to(tmp_path).as_posix() for name in DEFAULT for d in downloads_of(name, tmp_path)}
    script = (NLG / "create_datasets.sh").read_text(encoding="utf-8")
    assert set(WEIGHTS) <= set(DEFAULT) <= set(ALL)
    assert {"vocab/encoder.json", "vocab/vocab.bpe", "data/dart/dart-v1.1.1-full-dev.json"} <= paths
    for name in ("e2e", "webnlg_challenge_2017", "dart"):
        assert name in script and sum(path.startswith(f"data/{name}/") for path in paths) == 3


def test_the_script_fetches_into_the_current_folder(server, tmp_path):
    vocabulary = shared_path("data/gpt2_vocab")
    for path, (address, _) in REPOSITORY_FILES["vocab"].items():
        server.files[f"/{address}"] = (vocabulary / path.removeprefix("vocab/")).read_bytes()
    server.files["/openai-community/gpt2/resolve/main/pytorch_model.bin"] = CONTENT
    servers = ["--hub-url", server.url, "--github-url", server.url]
    result = run("download_pretrained_checkpoints.sh", "vocab", "gpt2", *servers, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 3 and SHA256 in result.stdout
    assert (tmp_path / "pretrained_checkpoints" / "gpt2-pytorch_model.bin").read_bytes() == CONTENT
    assert (tmp_path / "vocab" / "vocab.bpe").read_bytes() == (vocabulary / "vocab.bpe").read_bytes()


def test_the_program_ends_with_one_line_and_code_2(server, tmp_path):
    result = run("download.py", "gpt2", "--hub-url", server.url, "--folder", tmp_path)
    assert_one_error_line(result, "resolve/main/pytorch_model.bin: the server answered 404")
    assert_one_error_line(run("download.py", "gpt3"), "cannot download gpt3: expected names out of vocab, e2e")
