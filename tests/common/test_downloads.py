"""Downloads against a server on loopback that cuts, resets, lies about length and content, changes or never ends."""

from __future__ import annotations

import hashlib

import pytest
from huggingface_hub import constants

from examples.common.downloads import SUMS_NAME, Download, HubFile, fetch, git_blob_id
from examples.common.errors import UserError
from examples.common.lock import locked
from tests.common.loopback import BLOB, COMMIT, CONTENT, SHA256


class Pauses(list[float]):
    """Stands in for ``time.sleep``."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def download(server, tmp_path) -> Download:
    return Download(f"{server.url}/file", tmp_path / "new" / "file.bin")


@pytest.fixture
def weights(server, tmp_path) -> Download:
    """A file of a hub, whose tag is its sha256."""
    path = "/org/model/resolve/main/pytorch_model.bin"
    server.files[path], server.etags[path] = CONTENT, f'"{SHA256}"'
    hub = HubFile("org/model", "pytorch_model.bin", "main", server.url)
    return Download(f"{server.url}{path}", tmp_path / "new" / "model.bin", hub=hub)


def names(download: Download) -> set[str]:
    return {path.name for path in download.path.parent.iterdir()}


# --- what is kept ----------------------------------------


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
    with pytest.raises(UserError, match=r"sha256 in .*SHA256SUMS should be .* remove it to download it again"):
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


@pytest.mark.parametrize(("kind", "right"), [("git_blob", BLOB), ("sha256", SHA256)])
def test_a_published_id_needs_no_list_and_a_wrong_one_keeps_nothing(server, download, kind, right):
    with pytest.raises(UserError, match=r"should be 0+, got [0-9a-f]{40,64}; nothing was kept"):
        fetch(Download(download.url, download.path, **{kind: "0" * len(right)}))
    assert names(download) == set()
    assert right in fetch(Download(download.url, download.path, **{kind: right}))
    assert names(download) == {"file.bin"}


def test_a_broken_list_of_digests_is_named(download):
    download.path.parent.mkdir()
    (download.path.parent / SUMS_NAME).write_text("what\n")
    with pytest.raises(UserError, match=r"SHA256SUMS line 1: expected '<sha256>  <file name>', got 'what'"):
        fetch(download)


def test_blob_ids_are_gits(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert git_blob_id(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # known to every git user


# --- servers that misbehave ----------------------------------------


def test_a_cut_or_reset_connection_is_tried_again_from_the_start(server, download):
    server.cut_after, server.resets = [1000], 1
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == CONTENT
    assert [asked for *_, asked in server.asked] == [None] * 3


def test_a_file_that_changes_between_two_tries_is_never_a_mixture(server, download):
    server.cut_after, server.changed = [5000], b"x" * 10240
    fetch(download, sleep=Pauses())
    assert download.path.read_bytes() == b"x" * 10240
    download.path.unlink()
    server.cut_after, server.files["/file"] = [5000], CONTENT
    with pytest.raises(UserError, match="git blob id should be"):
        fetch(Download(download.url, download.path, git_blob=BLOB), sleep=Pauses())


def test_what_an_earlier_call_or_anyone_left_is_not_adopted(server, download):
    folder = download.path.parent / ".file.bin.partial"
    (folder / "old").mkdir(parents=True)
    for path in (folder / "content", folder / "old" / "x", download.path.with_name("file.bin.partial")):
        path.write_bytes(b"foreign")
    fetch(download)
    assert download.path.read_bytes() == CONTENT
    assert server.asked == [("GET", "/file", None)]
    assert names(download) == {"file.bin", SUMS_NAME, "file.bin.partial"}


def test_a_second_call_for_the_same_file_is_refused_while_the_first_one_works(server, download):
    folder = download.path.parent / ".file.bin.partial"
    folder.mkdir(parents=True)
    with locked(folder / "lock"), pytest.raises(UserError, match="is in use: another process holds"):
        fetch(download)
    assert server.asked == []


def test_an_endless_answer_ends_at_the_size_or_at_the_time(server, download):
    server.endless = True
    with pytest.raises(UserError, match="more than the 1,000,000 bytes that it may have"):
        fetch(Download(download.url, download.path, most_bytes=1_000_000))
    with pytest.raises(UserError, match=r"not complete after 0\.2 seconds"):
        fetch(Download(download.url, download.path, most_bytes=1 << 40), time_limit=0.2)
    assert names(download) == set()


def test_pauses_grow_and_a_server_that_stays_broken_is_given_up(server, download):
    pauses = Pauses()
    server.failures = [503, 429, 500]
    fetch(download, retries=3, sleep=pauses)
    assert pauses == [1, 2, 4]
    download.path.unlink()
    server.failures = [503] * 3
    with pytest.raises(UserError, match="the server answered 503 Service Unavailable; tried 3 times"):
        fetch(download, retries=2, sleep=pauses)


def test_a_missing_file_is_not_asked_for_again(server, download):
    with pytest.raises(UserError, match=r"/none: the server answered 404"):
        fetch(Download(f"{server.url}/none", download.path))
    assert len(server.asked) == 1 and names(download) == set()


def test_no_server_is_one_line(server, download):
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/file: .*; tried 2 times"):
        fetch(Download("http://127.0.0.1:9/file", download.path), retries=1, sleep=Pauses())
    with pytest.raises(UserError, match="nonsense: not an address"):
        fetch(Download("nonsense", download.path))


# --- the hub ----------------------------------------


def test_weights_come_from_the_commit_of_the_answer_and_are_checked_by_its_digest(server, weights):
    assert f"sha256 {SHA256} recorded" in fetch(weights)
    assert weights.path.read_bytes() == CONTENT and names(weights) == {"model.bin", SUMS_NAME}
    assert server.asked[-1][:2] == ("GET", f"/org/model/resolve/{COMMIT}/pytorch_model.bin")


@pytest.mark.slow
def test_the_client_goes_on_after_a_cut_and_a_mixture_of_two_files_is_refused(server, weights, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # it keeps full chunks
    server.cut_after = [1000]
    fetch(weights)
    assert weights.path.read_bytes() == CONTENT and server.asked[-1][2] == "bytes=1000-"
    weights.path.unlink()
    server.cut_after, server.changed = [1000], b"x" * 10240
    with pytest.raises(UserError, match=f"sha256 of the hub should be {SHA256}, got .*; nothing was kept"):
        fetch(weights)
    assert names(weights) == {SUMS_NAME}


@pytest.mark.parametrize(
    ("etag", "message"), [(f'"{BLOB}"', ""), ("0" * 64, "sha256 of the hub"), ('"x"', "no digest")]
)
def test_a_tag_must_be_the_digest_of_the_content(server, weights, etag, message):
    server.etags["/org/model/resolve/main/pytorch_model.bin"] = etag
    if message:
        with pytest.raises(UserError, match=message):
            fetch(weights)
        assert names(weights) == set()
    else:
        fetch(weights)


def test_without_permission_to_ask_the_hub_that_is_said(weights, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids downloads"):
        fetch(weights)
