"""Corpora at an address give the bytes of local copies, whatever the connection does; no message shows a secret."""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from prep_samples import SMALL, contents, sentences, tarred
from test_data_prep_fetch_server import QUICK, Shop

from data_prep.build import build
from data_prep.catalog import read_catalog
from data_prep.connection import GaveUpError
from data_prep.inputs import Remote, _status, by_fsspec, input_at, remote_file
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.base.secret_names import shown_url, without_secrets


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(remote_file, "POLICY", QUICK)
    _status.cache_clear()
    server = Shop()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def local(catalog: Path) -> Path:
    """A stream, a zip, a file that can be cut up, an .xz of blocks, a tar archive and a table."""
    folder, lines = catalog.parent, sentences(300, seed=21)
    (folder / "plain.txt").write_text("".join(f"{line}\n" for line in lines))
    blocks = b"".join(lzma.compress("".join(f"{line}\n" for line in lines[at : at + 100]).encode()) for at in (0, 100, 200))
    (folder / "blocks.txt.xz").write_bytes(blocks)
    sides = {"x.de-en.de": "\n".join(lines).encode(), "x.de-en.en": "\n".join(reversed(lines)).encode()}
    (folder / "x.tgz").write_bytes(tarred(sides))
    pa.parquet.write_table(pa.table({"text": lines}), folder / "t.parquet", row_group_size=60)
    with open(catalog, "a") as file:
        file.write(
            "  - {name: plain, format: documents, path: plain.txt, language: en}\n"
            "  - {name: blocks, format: cc100, path: blocks.txt.xz, language: en}\n"
            "  - {name: tar, format: moses, path: x.tgz, languages: [de, en]}\n"
            "  - {name: table, format: parquet, path: t.parquet, language: en}\n"
        )
    return catalog


def at(catalog: Path, address: str) -> Path:
    """The same catalog, its files at an address."""
    path = catalog.with_name("remote.yaml")
    path.write_text(catalog.read_text().replace("path: ", f"path: {address}/"))
    return path


def told(out: Path, address: str) -> dict[str, bytes]:
    """The files of a build; alarms in its report name files by where they lie."""
    return {name: content.replace(f"{address}/".encode(), b"") for name, content in contents(out).items()}


def served(shop: Shop, folder: Path) -> None:
    shop.files = {f"/data/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_build_over_http_whose_connections_break_off_has_the_bytes_of_one_of_local_files(
    local: Path, tokenizer: Path, tmp_path: Path, shop: Shop
) -> None:
    build(local, tokenizer, tmp_path / "local", SMALL)
    served(shop, local.parent)
    remote = at(local, f"{shop.address}/data")
    shop.breaks_after = [400 + 37 * number for number in range(40)]
    build(remote, tokenizer, tmp_path / "remote", SMALL)
    assert told(tmp_path / "remote", f"{shop.address}/data") == told(tmp_path / "local", str(local.parent))
    assert shop.breaks_after == []
    build(remote, tokenizer, tmp_path / "two", SMALL, Ranks(2))
    assert contents(tmp_path / "two") == contents(tmp_path / "remote")
    begun = [wanted for wanted in shop.ranges if wanted not in (None, "bytes=1-")]
    assert len(begun) > 10, "reading went on in the middle of files"


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_build_through_fsspec_has_the_bytes_of_one_of_local_files(
    protocol: str, local: Path, tokenizer: Path, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    _status.cache_clear()
    build(local, tokenizer, tmp_path / "local", SMALL)
    address = f"file://{local.parent}" if protocol == "file" else "memory://corpora"
    if protocol == "memory":
        for path in local.parent.iterdir():
            fsspec.filesystem("memory").pipe_file(f"/corpora/{path.name}", path.read_bytes())
    build(at(local, address), tokenizer, tmp_path / "remote", SMALL)
    assert told(tmp_path / "remote", address) == told(tmp_path / "local", str(local.parent))


def test_reading_goes_on_at_the_byte_where_it_stopped_and_from_any_place(shop: Shop) -> None:
    content = bytes(range(256)) * 4000
    shop.files["/f.bin"] = content
    shop.breaks_after = [0]
    with Remote(f"{shop.address}/f.bin").open() as file:
        while shop.breaks_after:  # the question for the length is still being answered
            time.sleep(0.001)
        shop.breaks_after = [100_000, 5000]
        assert file.read() == content
        assert shop.ranges == ["bytes=1-", None, "bytes=100000-", "bytes=105000-"]
        for place in (700_000, 3, 1_000_000, 1_023_999):
            assert file.seek(place) == place
            assert file.read(1000) == content[place : place + 1000]
        assert file.seek(-5, io.SEEK_END) == len(content) - 5
        assert file.read() == content[-5:]
    with Remote(f"{shop.address}/f.bin").open() as file:
        file.read(10)
        asked = len(shop.asked)
        file.seek(600_000)  # not far behind what was read
        assert file.read(1000) == content[600_000:601_000]
        assert len(shop.asked) == asked, "the same connection is read on"


def test_a_server_that_cannot_go_on_changes_or_stays_away_is_one_line(shop: Shop) -> None:
    shop.files["/f.txt"] = b"some text\n" * 100_000
    address = Remote(f"{shop.address}/f.txt")
    shop.knows_ranges = False
    with pytest.raises(InputError, match=r"f\.txt: the server does not send parts of a file.*; download it, and give"):
        address.stat()
    shop.knows_ranges = True
    with address.open() as file:
        file.read(10)
        shop.files["/f.txt"] = b"other txt\n" * 100_000
        file.seek(900_000)
        with pytest.raises(InputError, match=r"f\.txt: changed on the server while it was read"):
            file.read()
    with pytest.raises(FileNotFoundError, match=r"the server has no such file: .*gone"):
        Remote(f"{shop.address}/gone.txt").stat()
    assert not Remote(f"{shop.address}/gone.txt").exists()
    shop.refusals = [503] * 20
    with pytest.raises(GaveUpError, match=r"gave up \(the server answered 503"):
        Remote(f"{shop.address}/f.txt").open()
    shop.refusals = [403]
    with pytest.raises(InputError, match="the server answered 403"):
        Remote(f"{shop.address}/f.txt").open()


def test_files_of_no_and_of_one_byte(shop: Shop) -> None:
    shop.files |= {"/empty.txt": b"", "/one.txt": b"x"}
    assert [Remote(f"{shop.address}/{name}.txt").stat().st_size for name in ("empty", "one")] == [0, 1]
    assert Remote(f"{shop.address}/one.txt").open().read() == b"x"


def test_user_and_password_go_to_the_server_and_into_no_message(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.files["/f.txt"] = b"text\n"
    host = shop.address.removeprefix("http://")
    other = f"http://localhost:{shop.server_port}/f.txt"
    address = Remote(f"http://me:s3cr3t@{host}/f.txt")
    shop.refusals = [503]
    assert address.open().read() == b"text\n"
    assert all(headers["Authorization"] == "Basic bWU6czNjcjN0" for _, headers in shop.asked)
    shop.asked.clear()
    shop.sends_on = {"/f.txt": other}
    address.open().close()
    assert ["Authorization" in headers for _, headers in shop.asked] == [True, False], "another host does not get them"
    shop.refusals = [401]
    with pytest.raises(InputError) as caught:
        address.open()
    said = "".join(capsys.readouterr()) + str(caught.value) + str(address) + repr(address)
    assert "***@" in said
    assert "s3cr3t" not in said
    signed = "https://host/a.parquet?X-Amz-Signature=abcdef&x=1"
    assert shown_url(signed) == "https://host/a.parquet?X-Amz-Signature=***&x=***"
    assert without_secrets(f"403 for {signed}: abcdef is not valid", signed) == (
        "403 for https://host/a.parquet?X-Amz-Signature=***&x=***: *** is not valid"
    )
    path = tmp_path / "c.yaml"
    host = "me:s3cr3t@host"
    for wrong in (f"ssh://{host}/f", f"zip://a::https://{host}/f", f"http://{host}:port/f", f"http://{host}/a b"):
        path.write_text(f'corpora: [{{name: a, format: cc100, path: "{wrong}", language: en}}]')
        with pytest.raises(InputError, match=r"corpora\[0\] \(a\): .*address") as caught:
            read_catalog(path)
        assert "s3cr3t" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("fsspec.core")

    def lacking(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", lacking)
    by_fsspec._system.cache_clear()
    with pytest.raises(InputError, match=r"s3://bucket/f\.txt: s3:// needs fsspec s3fs: pip install fsspec s3fs"):
        Remote("s3://bucket/f.txt").stat()
    by_fsspec._system.cache_clear()


def test_what_fsspec_reads_is_tried_again_where_it_failed_and_refused_where_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(remote_file, "POLICY", QUICK)
    content = bytes(range(256)) * 1000
    memory.pipe_file("/again/f.bin", content)
    real, failures = type(memory).open, iter([True, False, True])

    def failing(*arguments: object, **options: object) -> object:
        if next(failures, False):
            raise ConnectionResetError("reset by peer")
        return real(*arguments, **options)

    monkeypatch.setattr(type(memory), "open", failing)
    file = Remote("memory://again/f.bin").open()
    other = Remote("memory://again/f.bin").open()
    found = [one.raw.read(100) for one in (file, other, file, other)]  # each has its place
    assert found == [content[:100], content[:100], content[100:200], content[100:200]]
    memory.pipe_file("/again/f.bin", b"other")
    failures = iter([True])
    file.raw._leave()  # type: ignore[attr-defined]
    file.seek(0)
    with pytest.raises(InputError, match=r"memory://again/f\.bin: changed while it was read"):
        file.read(10)


def test_a_start_loads_nothing_that_speaks_to_servers() -> None:
    code = "import data_prep.build, sys; print(*{'http.client', 'urllib.request', 'fsspec'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_lists_and_patterns_of_addresses(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("b.txt", "a.txt", "c.zip"):
        memory.pipe_file(f"/shelf/{name}", b"text")
    path = tmp_path / "c.yaml"
    entry = "corpora: [{{name: a, format: cc100, path: {}, language: en}}]"
    path.write_text(entry.format('"memory://shelf/*.txt"'))
    assert [str(corpus.files[0]) for corpus in read_catalog(path)] == ["memory:///shelf/a.txt", "memory:///shelf/b.txt"]
    path.write_text(entry.format('["https://host/x.txt?v=1", local.txt]'))
    found = [corpus.files[0] for corpus in read_catalog(path)]
    assert found == [Remote("https://host/x.txt?v=1"), tmp_path / "local.txt"]
    assert [found[0].name, found[0].suffix, found[0].stem] == ["x.txt", ".txt", "x"]
    path.write_text(entry.format('"https://host/*.txt"'))
    with pytest.raises(InputError, match="a server of https does not list its files; give a list of addresses"):
        read_catalog(path)
    path.write_text("exclude: [https://host/test.en]\n" + entry.format("a.txt"))
    with pytest.raises(InputError, match=r"exclude: https://host/test\.en: evaluation sets are read whole from a disk"):
        read_catalog(path)
    assert input_at("~/x", tmp_path) == tmp_path / Path("~/x").expanduser()
