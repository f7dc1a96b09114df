"""Addresses against a real S3 server: reading, the cache, listing, sending, and faults."""

import http.server
import os
import shutil
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest

from oculox.addresses import (
    AbsentError,
    Address,
    AddressError,
    Found,
    cache,
    fetch_ahead,
    forget_changed,
    is_address,
    list_files,
    list_names,
    local_copy,
    local_folder,
    local_output,
    mirrored,
    sending,
    to_location,
    upload,
)
from oculox.addresses.storage import download
from oculox.errors import MissingExtraError, OculoxError, OculoxWarning, UsageError
from oculox.training.remote import run_place
from oculox.weights.download import locate_weights
from s3_server import Fault


@pytest.mark.parametrize(
    ("text", "name", "parent", "suffix"),
    [
        ("s3://bucket/a/b.jpg", "b.jpg", "s3://bucket/a", ".jpg"),
        ("s3://bucket/a/", "a", "s3://bucket", ""),
        ("s3://bucket", "", "s3://bucket", ""),
        ("s3://bucket/what?.jpg", "what?.jpg", "s3://bucket", ".jpg"),
        ("https://host/a/b.pt?key=x/y.z", "b.pt", "https://host/a", ".pt"),
        ("hf://datasets/me/set@main/x.json", "x.json", "hf://datasets/me/set@main", ".json"),
    ],
)
def test_parts_of_an_address(text, name, parent, suffix):
    address = Address(text)
    assert (address.name, str(address.parent), address.suffix) == (name, parent, suffix)


def test_an_address_shows_no_secrets():
    address = Address("https://me:password@host/a.pt?X-Amz-Signature=secret")
    assert str(address) == "https://host/a.pt?..."
    assert "secret" not in repr(address)
    assert "password" not in repr(address)
    assert Address("https://host/a?key=1") / "b" == Address("https://host/a/b?key=1")


def test_paths_stay_paths():
    assert to_location("a/b") == Path("a/b")
    assert to_location(Path("a/b")) == Path("a/b")
    assert not is_address("C:/images")
    assert to_location("s3://b/a") == Address("s3://b/a")
    with pytest.raises(UsageError, match="pass it as a string"):
        to_location(Path("s3://bucket/a"))
    for text in ("s3://bucket/a/..", "s3://bucket/./a", "https://host/a/../b?key=1"):
        with pytest.raises(UsageError, match=r"without '\.' and '\.\.'"):
            to_location(text)


def test_a_file_is_fetched_once_and_again_when_it_changed(s3):
    s3.put("bucket-once", {"f/a.txt": b"one"})
    address = Address("s3://bucket-once/f/a.txt")
    copy = local_copy(address)
    assert (copy.name, copy.read_bytes()) == ("a.txt", b"one")
    s3.requests.clear()
    assert local_copy(address) == copy
    assert s3.requests == [("HEAD", "/bucket-once/f/a.txt")]
    assert address.read_bytes() == b"one"
    assert len(s3.requests) == 1
    s3.put("bucket-once", {"f/a.txt": b"two"})  # the same size
    assert address.read_bytes() == b"one"
    assert local_copy(address).read_bytes() == b"two"


def test_a_listing_tells_which_copies_are_of_yesterday(s3):
    s3.put("bucket-list", {"f/a.txt": b"one", "f/b.txt": b"b", "f/deep/c.txt": b"c"})
    folder = Address("s3://bucket-list/f")
    assert folder.is_dir()
    assert not folder.is_file()
    assert [str(f.address) for f in list_files(folder)] == [f"{folder}/a.txt", f"{folder}/b.txt"]
    found = list(list_files(folder, recursive=True))
    assert [(f.address.name, f.size) for f in found] == [("a.txt", 3), ("b.txt", 1), ("c.txt", 1)]
    kept = [(folder / name).read_bytes() for name in ("a.txt", "b.txt")]
    assert kept == [b"one", b"b"]
    s3.put("bucket-list", {"f/a.txt": b"two"})
    forget_changed(list_files(folder))
    s3.requests.clear()
    assert [(folder / name).read_bytes() for name in ("a.txt", "b.txt")] == [b"two", b"b"]
    assert ("GET", "/bucket-list/f/b.txt") not in s3.requests


def test_folders_without_a_name_are_named_and_left_out(s3):
    files = ("f//b.jpg", "f/a.jpg", "f/deep//c.jpg", "f/deep/d.jpg", "f/z.jpg", "//top.jpg")
    s3.put("bucket-slash", {**dict.fromkeys(files, b"x"), "f/": b""})
    folder = Address("s3://bucket-slash/f")
    with pytest.warns(OculoxWarning) as told:
        found = list(list_files(folder, recursive=True))
    names = ("f/a.jpg", "f/z.jpg", "f/deep/d.jpg")
    assert [str(f.address) for f in found] == [f"s3://bucket-slash/{name}" for name in names]
    left = [str(one.message).partition(": what is below this is left out")[0] for one in told]
    assert left == [f"{folder}//", f"{folder}/deep//"]
    with pytest.warns(OculoxWarning) as told:
        assert len(list(list_files(Address(f"{folder.parent}/"), recursive=True))) == 3
    assert str(told[0].message).startswith("s3://bucket-slash//: what is below this")
    assert len(list(list_files(folder))) == 2  # nothing was left out
    assert list_names(folder) == {"a.jpg": False, "deep": True, "z.jpg": False}
    assert Address(f"{folder}//b.jpg").read_bytes() == b"x"


def test_the_cache_keeps_its_size_and_what_was_used_last(s3, monkeypatch):
    s3.put("bucket-size", {f"{i}.bin": bytes(100) for i in range(12)})
    monkeypatch.setenv("OCULOX_CACHE_GB", "1e-6")  # 1000 bytes
    files = [Address(f"s3://bucket-size/{i}.bin") for i in range(12)]
    for file in files[:10]:
        file.read_bytes()
    files[0].read_bytes()
    files[10].read_bytes()
    kept = [p.name for p in Path(os.environ["OCULOX_CACHE"]).rglob("*.bin")]
    assert 100 * len(kept) <= 1000
    assert {"0.bin", "10.bin"} <= set(kept)
    assert "1.bin" not in kept
    monkeypatch.setenv("OCULOX_CACHE_GB", "5e-8")
    with pytest.raises(AddressError, match="set OCULOX_CACHE_GB to more"):
        files[11].read_bytes()


@pytest.mark.parametrize("size", [500, 990])
def test_a_file_as_large_as_the_cache_fits(s3, monkeypatch, size):
    s3.put("bucket-large", {f"{i}.bin": bytes(size) for i in range(3)})
    monkeypatch.setenv("OCULOX_CACHE_GB", "1e-6")  # 1000 bytes
    for i in range(3):
        assert Address(f"s3://bucket-large/{i}.bin").read_bytes() == bytes(size)


def test_a_folder_is_whole_or_refused(s3, monkeypatch, tmp_path):
    s3.put("bucket-whole", {f"f/{i}.bin": bytes(100) for i in range(9)})
    folder = Address("s3://bucket-whole/f")
    monkeypatch.setenv("OCULOX_CACHE_GB", "5e-7")  # 500 bytes
    with pytest.raises(AddressError, match=r"/f: .*set OCULOX_CACHE_GB to more"):
        local_folder(folder)
    assert not [path for method, path in s3.requests if method == "GET" and ".bin" in path]
    assert len(list(local_folder(folder, tmp_path / "here").iterdir())) == 9
    untold = [Found(file.address, None, file.stamp) for file in list_files(folder)]
    monkeypatch.setattr(cache, "list_files", lambda *_, **__: untold)
    with pytest.raises(AddressError, match=r"/f: .*set OCULOX_CACHE_GB to more"):
        local_folder(folder)
    monkeypatch.setenv("OCULOX_CACHE_GB", "1e-6")
    assert len(list(local_folder(folder).iterdir())) == 9


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../a", Path), ("/etc/a", Path), ("..\\a", PureWindowsPath), ("C:a", PureWindowsPath)],
)
def test_names_that_lead_out_of_a_folder(name, kind, monkeypatch, tmp_path):
    folder = Address("s3://bucket/f")
    found = Found(Address(f"{folder}/{name}"), 1, 1)
    monkeypatch.setattr(cache, "list_files", lambda *_, **__: [found])
    monkeypatch.setattr(cache, "Path", kind)
    with pytest.raises(AddressError, match="its name leads out of the folder"):
        local_folder(folder, tmp_path)


def test_many_readers_fetch_a_file_once(s3):
    s3.put("bucket-many", {"a.bin": b"x" * 1000})
    address = Address("s3://bucket-many/a.bin")
    fetch_ahead([address])
    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(lambda _: address.read_bytes(), range(16)))
    assert contents == {b"x" * 1000}
    assert s3.requests.count(("GET", "/bucket-many/a.bin")) == 1


def test_a_forked_process_reads_too(s3):
    s3.put("bucket-fork", {"a.bin": b"here", "b.bin": b"there"})
    assert Address("s3://bucket-fork/a.bin").read_bytes() == b"here"
    child = os.fork()
    if child == 0:
        os._exit(0 if Address("s3://bucket-fork/b.bin").read_bytes() == b"there" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_is_sent(s3, tmp_path):
    s3.put("bucket-up", {})
    (tmp_path / "a.txt").write_bytes(b"content")
    s3.faults.append(Fault("busy", methods=("PUT",), times=2))
    upload(tmp_path / "a.txt", Address("s3://bucket-up/x/a.txt"))
    assert s3.get("bucket-up", "x/a.txt") == b"content"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("busy", times=2),
        Fault("broken", times=2),
        Fault("cut", methods=("GET",), times=1),
        Fault("late", times=1, seconds=0.3),
    ],
    ids=lambda fault: fault.kind,
)
def test_faults_that_pass(s3, fault):
    s3.put("bucket-pass", {"a.bin": bytes(range(200)) * 50})
    s3.faults.append(fault)
    assert Address("s3://bucket-pass/a.bin").read_bytes() == bytes(range(200)) * 50
    assert fault.times == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("busy"), r"cannot be reached or fails \(.*Service Unavailable"),
        (Fault("cut", methods=("GET",)), "cannot be reached or fails"),
        (Fault("slow", methods=("GET",), seconds=0.2), "the transfer is too slow"),
        (Fault("expired"), "the credentials have expired; get new ones"),
        (Fault("denied"), "access is denied; the credentials give no permission"),
    ],
    ids=["busy", "cut", "slow", "expired", "denied"],
)
def test_faults_that_stay(s3, fault, message, monkeypatch):
    monkeypatch.setenv("OCULOX_PATIENCE", "0.5")
    s3.put("bucket-stay", {"a.bin": bytes(200)})
    s3.faults.append(fault)
    with pytest.raises(AddressError, match=f"^s3://bucket-stay/a.bin: .*{message}"):
        Address("s3://bucket-stay/a.bin").read_bytes()


def test_a_long_wait_is_told_once(s3, monkeypatch):
    monkeypatch.setenv("OCULOX_PATIENCE", "0.5")
    monkeypatch.setattr("oculox.addresses.storage._QUIET_SECONDS", 0)
    s3.faults.append(Fault("busy"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for name in ("a.bin", "b.bin"):
            with pytest.raises(AddressError):
                Address(f"{s3.url}/bucket/{name}").read_bytes()
    [text] = [str(one.message) for one in told if one.category is OculoxWarning]
    assert text.startswith(f"{s3.url}: the storage cannot be reached or fails (503")
    assert text.endswith("; trying again, for at least 0.5 seconds in all (OCULOX_PATIENCE)")


def test_what_is_not_there(s3):
    s3.put("bucket-there", {"a.bin": b""})
    with pytest.raises(AbsentError, match="there is no such file or folder"):
        local_copy(Address("s3://bucket-there/b.bin"))
    with pytest.raises(AbsentError, match="there is no bucket 'bucket-nowhere'"):
        local_copy(Address("s3://bucket-nowhere/a.bin"))
    with pytest.raises(AddressError, match="this is a folder"):
        local_copy(Address("s3://bucket-there"))
    assert not Address("s3://bucket-there/b").exists()


def test_no_credentials(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AddressError, match=r"no credentials were found .*set .*AWS_ACCESS_KEY_ID"):
        Address("s3://bucket-keys/a").read_bytes()


def test_a_signed_link_and_the_object_storage_of_huawei(s3, monkeypatch):
    s3.put("bucket-link", {"a.bin": b"signed"})
    link = s3.client().generate_presigned_url(
        "get_object", Params={"Bucket": "bucket-link", "Key": "a.bin"}
    )
    assert local_copy(Address(link)).read_bytes() == b"signed"
    monkeypatch.setenv("OCULOX_PATIENCE", "0.1")
    for kind in ("broken", "denied"):
        s3.faults.append(Fault(kind))
        with pytest.raises(AddressError, match=r"a.bin\?\.\.\.: ") as caught:
            local_copy(Address(link))
        assert "Signature" not in str(caught.value)
        s3.faults.clear()
    with pytest.raises(UsageError, match="set OBS_ENDPOINT to the server of your region"):
        Address("obs://bucket-link/a.bin").read_bytes()
    monkeypatch.setenv("OBS_ENDPOINT", s3.url)
    assert Address("obs://bucket-link/a.bin").read_bytes() == b"signed"


@pytest.fixture
def web(s3):
    """A server that answers with the query and the time of `changed`; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        changed = "Mon, 01 Jan 2024 00:00:00 GMT"

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.path)))
            self.send_header("Last-Modified", self.changed)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(self.path.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


def test_files_whose_queries_differ_are_two(web):
    for read in (Address.read_bytes, lambda address: local_copy(address).read_bytes()):
        for number in (1, 2):
            assert read(Address(f"{web[0]}/dl?id={number}")) == b"/dl?id=%d" % number


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("?X-Amz-Date=1&X-Amz-Signature=a", "?X-Amz-Date=2&X-Amz-Signature=b", True),
        ("?sv=1&se=2024&sig=a", "?sv=1&se=2025&sig=b", True),
        ("?Expires=1&Signature=a&Key-Pair-Id=b", "", True),
        ("?AWSAccessKeyId=a&Signature=b&Expires=1", "?Signature=c", True),
        ("?versionId=1&X-Amz-Signature=a", "?versionId=2&X-Amz-Signature=b", False),
        ("?id=1", "?id=2", False),
        ("?se=1", "?se=2", False),
        ("?id=", "", False),
    ],
)
def test_what_signs_a_link_does_not_change_its_file(first, second, same):
    places = [cache._place(Address(f"https://host/a/b.bin{query}")) for query in (first, second)]
    assert (places[0] == places[1]) is same
    assert {place.name for place in places} == {"b.bin"}


def test_a_file_on_the_web_is_fetched_again_when_its_time_changes(web):
    url, handler = web
    copy = local_copy(Address(f"{url}/a.bin"))
    before = cache._kept_stamp(copy)
    assert cache._kept_stamp(local_copy(Address(f"{url}/a.bin"))) == before
    handler.changed = "Tue, 02 Jan 2024 00:00:00 GMT"
    assert cache._kept_stamp(local_copy(Address(f"{url}/a.bin"))) != before


def test_storages_that_need_more(monkeypatch):
    with pytest.raises(UsageError, match="'zz://' is no storage that is known"):
        Address("zz://a/b").exists()
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oculox\[cloud\]'"):
        Address("s3://a/b").exists()


def wait_for(condition):
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)
    assert condition()


def test_a_folder_is_sent_while_it_changes(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "_SECONDS", 0.02)
    monkeypatch.setenv("OCULOX_PATIENCE", "5")
    s3.put("bucket-mirror", {})
    told = []
    (tmp_path / "last.pt").write_bytes(b"1")
    (tmp_path / "a.log").write_bytes(b"1")
    there = Address("s3://bucket-mirror/run")
    with mirrored(tmp_path, there, last="last.pt", sent={}, tell=told.append):
        wait_for(lambda: "run/last.pt" in s3.keys("bucket-mirror"))
        # What goes with a checkpoint is there before it.
        sent = [path for method, path in s3.requests if method == "PUT" and "run/" in path]
        assert [Path(path).name for path in sent] == ["a.log", "last.pt"]
        s3.faults.append(Fault("denied", methods=("PUT",)))
        (tmp_path / "new").write_bytes(b"2")
        (tmp_path / "new").replace(tmp_path / "last.pt")
        wait_for(lambda: told)
        assert s3.get("bucket-mirror", "run/last.pt") == b"1"
        s3.faults.clear()
        (tmp_path / "a.log").unlink()
    assert told[0].startswith("not sent: s3://bucket-mirror/run/last.pt: access is denied")
    assert s3.get("bucket-mirror", "run/last.pt") == b"2"
    assert s3.keys("bucket-mirror") == ["run/last.pt"]


def test_an_error_goes_before_that_of_sending(s3, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"1")
    told = []
    with (
        pytest.raises(ZeroDivisionError),
        mirrored(tmp_path, Address("s3://bucket-none/a"), last="", sent={}, tell=told.append),
    ):
        raise ZeroDivisionError
    assert f"the files are in {tmp_path}" in told[-1]


def test_what_cannot_be_sent_at_the_end_stays(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("OCULOX_PATIENCE", "0.1")
    s3.put("bucket-end", {})
    s3.faults.append(Fault("denied", methods=("PUT",)))
    with (
        pytest.raises(AddressError, match=r"access is denied.*the files are in ") as caught,
        local_output(Address("s3://bucket-end/found")) as folder,
    ):
        (folder / "predictions.json").write_text("[]")
    kept = Path(str(caught.value).rpartition("the files are in ")[2])
    assert (kept / "predictions.json").read_text() == "[]"
    shutil.rmtree(kept.parent)


def test_a_folder_that_is_gone_is_an_error_of_sending(s3, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        pytest.raises(AddressError, match="the files are in"),
        mirrored(folder, Address("s3://bucket-a/run"), last="", sent={}, tell=print),
    ):
        folder.rmdir()


def test_what_was_sent_at_the_end_of_an_error_does_not_stay(s3, tmp_path):
    s3.put("bucket-stop", {})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.pt").write_bytes(b"1")
    with (
        pytest.raises(ZeroDivisionError),
        mirrored(folder, Address("s3://bucket-stop/run"), last="last.pt", sent={}, tell=print),
    ):
        raise ZeroDivisionError
    assert s3.get("bucket-stop", "run/last.pt") == b"1"
    assert not folder.exists()


def test_a_full_disk_is_said_at_once(s3):
    s3.put("bucket-full", {"a.bin": bytes(200)})
    with pytest.raises(OculoxError, match=r"No space left on device.*OCULOX_CACHE"):
        download(Address("s3://bucket-full/a.bin"), Path("/dev/full"), size=200)
    assert s3.requests.count(("GET", "/bucket-full/a.bin")) == 1


def test_a_cache_that_cannot_be_written(s3, tmp_path, monkeypatch):
    s3.put("bucket-lock", {"a.bin": b"a"})
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "file"))
    address = Address("s3://bucket-lock/a.bin")
    for work in (lambda: local_copy(address), address.read_bytes):
        with pytest.raises(OculoxError, match=r"cannot be written.*OCULOX_CACHE"):
            work()


def told_to_another_user(work):
    """The message of the error that another user of this machine gets from a function."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            os.environ["HOME"] = "/"
            work()
            message = "no error"
        except OculoxError as error:
            message = str(error)
        except BaseException as error:  # noqa: BLE001 - as a message, for the test
            message = repr(error)
        os.write(write, message.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["readable", "closed"])
def test_the_cache_of_another_user_is_refused(s3, monkeypatch, mode):
    s3.put(
        "bucket-user", {"a.bin": b"a", "b.bin": b"b", "run/last.pt": b"", "run/config.yaml": b""}
    )
    files = [Address(f"s3://bucket-user/{name}.bin") for name in "ab"]
    with tempfile.TemporaryDirectory() as folder:  # where everybody may look
        Path(folder).chmod(0o755)
        cache = Path(folder) / "cache"
        monkeypatch.setenv("OCULOX_CACHE", str(cache))
        files[0].read_bytes()
        run_place(None, Address("s3://bucket-user/run"))
        cache.chmod(mode)
        s3.put("bucket-user", {"a.bin": b"changed"})
        for work in (
            files[0].read_bytes,
            files[1].read_bytes,
            lambda: local_copy(files[0]),
            lambda: forget_changed(list_files(Address("s3://bucket-user"))),
            lambda: run_place(None, Address("s3://bucket-user/run")),
            *([lambda: locate_weights("yolox-s")] if mode == 0o700 else []),
        ):
            told = told_to_another_user(work)
            assert told.startswith(f"{cache}: the cache cannot be written (")
            assert "another user's); set OCULOX_CACHE to a folder of your own" in told
        assert files[0].read_bytes() == b"a"
