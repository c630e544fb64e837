import errno
import os
import pickle
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
)

from cluster import stores
from cluster.store_errors import StoreDenied, StoreError, StoreNotFound, StoreUnreachable, translate
from cluster.stores import Store, open_store

pytestmark = pytest.mark.slow


def again(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.fixture(params=["local", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "local":
            return open_store(str(tmp_path / "root"))
        case "file":
            return open_store(f"file://{tmp_path}/root/")
        case "memory":
            return open_store(f"memory://{tmp_path.name}/root")
        case _:
            return open_store(f"{request.getfixturevalue('s3_bucket')}/root")


def test_every_store_behaves_alike(store: Store) -> None:
    assert store.list() == ()
    assert not store.exists("a/b.txt")
    store.put("a/b.txt", b"one")
    store.put("a.txt", b"")
    store.put("a/c/d.txt", b"three")
    assert [(info.path, info.size_bytes) for info in store.list()] == [("a.txt", 0), ("a/b.txt", 3), ("a/c/d.txt", 5)]
    assert [info.path for info in store.list("a")] == ["a/b.txt", "a/c/d.txt"]
    assert [info.path for info in store.child("a").list("c")] == ["c/d.txt"]
    assert store.list("nowhere") == ()
    assert store.exists("a/b.txt")
    assert not store.exists("a")
    assert store.child("a").read_bytes("b.txt") == store.child("a/b.txt").read_bytes() == b"one"
    with store.open("a/c/d.txt", scattered=True) as handle:
        handle.seek(2)
        assert handle.read(2) == b"re"
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert [info.path for info in store.list()] == ["a.txt", "a/c/d.txt"]


def test_listing_is_never_stale_and_its_tag_follows_the_content(store: Store) -> None:
    store.put("x", b"before")
    (before,) = store.list()
    assert store.stat("x") == before
    other = open_store(store.root)
    other.put("x", b"after!")
    (after,) = store.list()
    assert after.etag != before.etag
    assert store.read_bytes("x") == b"after!"


def test_put_replaces_whole_and_leaves_nothing_beside(store: Store) -> None:
    store.put("x", b"a longer text")
    store.put("x", b"short")
    assert store.read_bytes("x") == b"short"
    assert len(store.list()) == 1


def test_store_travels_to_another_process(store: Store) -> None:
    store.put("x", b"1")
    copy = again(store)
    assert copy == store
    assert copy.read_bytes("x") == b"1"


@pytest.mark.parametrize("kind", [StoreError, StoreNotFound, StoreDenied, StoreUnreachable])
def test_errors_survive_pickling(kind: type[StoreError]) -> None:
    copy = again(kind("s3://b/k: no"))
    assert type(copy) is kind
    assert str(copy) == "s3://b/k: no"


def test_reading_what_is_not_there_names_it(store: Store) -> None:
    with pytest.raises(StoreNotFound, match="root/gone"):
        store.read_bytes("gone")
    with pytest.raises(FileNotFoundError):
        store.stat("gone")


@pytest.mark.parametrize(
    ("uri", "message"),
    [("", "empty"), ("s3://", "bucket"), ("s3:///x", "bucket"), ("nosuch://x/y", "nosuch")],
)
def test_bad_uri(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(uri)


def test_missing_bucket(s3_bucket: str) -> None:
    gone = open_store(f"{s3_bucket}-gone/x")
    for deed in (gone.list, lambda: gone.put("y", b"")):
        with pytest.raises(StoreNotFound, match="no such bucket"):
            deed()
    assert not gone.exists("y")


def test_no_answer_from_the_endpoint(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(stores, "_S3_ATTEMPTS", 1)
    with pytest.raises(StoreUnreachable, match="AWS_ENDPOINT_URL"):
        open_store(s3_bucket).list()


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreDenied, match="no usable credentials"):
        open_store(s3_bucket).list()


def test_wrong_key(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def let_pass(num_calls: str) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3_endpoint}/moto-api/reset-auth", num_calls.encode(), plain)  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310 - loopback

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    let_pass("0")
    try:
        store = open_store(s3_bucket)
        for deed in (store.list, lambda: store.exists("x"), lambda: store.put("x", b"")):
            with pytest.raises(StoreDenied, match="credentials") as caught:
                deed()
            assert "AKIAWRONG" not in str(caught.value)
    finally:
        let_pass("inf")


def test_unknown_profile(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreDenied, match="AWS_PROFILE"):
        open_store(s3_bucket).list()


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("InvalidAccessKeyId", StoreDenied, "wrong or expired credentials"),
        ("SignatureDoesNotMatch", StoreDenied, "wrong or expired credentials"),
        ("ExpiredToken", StoreDenied, "wrong or expired credentials"),
        ("AccessDenied", StoreDenied, "policy"),
        ("403", StoreDenied, "credentials"),
        ("NoSuchBucket", StoreNotFound, "no such bucket"),
        ("NoSuchKey", StoreNotFound, "no such file"),
        ("InvalidRange", StoreError, "InvalidRange"),
    ],
)
def test_answers_of_s3(code: str, kind: type[StoreError], said: str) -> None:
    answer = ClientError({"Error": {"Code": code, "Message": "as sent"}, "AWSAccessKeyId": "AKIASECRET"}, "GetObject")
    wrapped = OSError(errno.EIO, "wrapped by the library")
    wrapped.__cause__ = answer
    for error in (answer, wrapped):
        clear = translate(error, "s3://bucket/key")
        assert type(clear) is kind
        assert "s3://bucket/key" in str(clear)
        assert said in str(clear)
        assert "AKIASECRET" not in str(clear)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), StoreUnreachable),
        (ConnectTimeoutError(endpoint_url="http://x"), StoreUnreachable),
        (ConnectionRefusedError(), StoreUnreachable),
        (NoCredentialsError(), StoreDenied),
        (ParamValidationError(report="bucket name"), StoreNotFound),
        (PermissionError(errno.EACCES, "no", "/x"), StoreDenied),
    ],
)
def test_other_refusals(error: Exception, kind: type[StoreError]) -> None:
    assert type(translate(error, "s3://b/k")) is kind


def test_a_password_in_a_uri_is_never_shown() -> None:
    assert "hunter2" not in str(translate(FileNotFoundError(), "sftp://me:hunter2@host/x"))
    with pytest.raises(ValueError, match="nosuch") as caught:
        open_store("nosuch://me:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


def test_what_isnt_the_stores_fault_passes_through() -> None:
    error = ValueError("ours")
    assert translate(error, "s3://b/k") is error


def test_listing_hides_what_a_killed_write_left(tmp_path: Path) -> None:
    (tmp_path / ".put-1-abc").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"")
    assert [info.path for info in open_store(str(tmp_path)).list()] == [".hidden"]


def test_a_failed_put_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.put("x", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output"):
        store.put("x", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert store.read_bytes("x") == b"old"


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    store = open_store(str(tmp_path / "root"))
    assert [info.path for info in store.list()] == ["link/x"]
    (tmp_path / "root" / "broken").symlink_to(tmp_path / "gone")
    with pytest.raises(StoreNotFound, match="root/broken"):
        store.list()
    (tmp_path / "root" / "broken").unlink()
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    with pytest.raises(OSError, match="above it"):
        store.list()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_disk_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine doesn't allow mounting a small disk")
    try:
        store = open_store(str(disk))
        store.put("small", b"x")
        with pytest.raises(OSError, match="disk full while writing 1000000 bytes") as caught:
            store.put("large", b"x" * 1_000_000)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(disk / "large")
        assert again(caught.value).errno == errno.ENOSPC
        assert [file.name for file in disk.iterdir()] == ["small"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
