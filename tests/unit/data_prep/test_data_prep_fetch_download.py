"""One file over a bad line, from a real server on this machine: whole under its final name, or resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import lzma
import random
import resource
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from test_data_prep_fetch_server import QUICK, Shop

from data_prep.connection import GaveUpError, NotFoundError, RetryPolicy, _Redirects, mirrored
from data_prep.fetch.download import download
from ernie_m.base.console import InputError, run_cleanly

CONTENT = random.Random(0).randbytes(700_001)
ONCE = RetryPolicy(tries=1, timeout_seconds=5)


@pytest.fixture
def shop(shop: Shop) -> Shop:
    shop.files["/a.xz"] = CONTENT
    return shop


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "a.xz"


def get(shop: Shop, path: Path, retry_policy: RetryPolicy = QUICK, **more: str) -> bool:
    return download(f"{shop.address}/a.xz", path, retry_policy=retry_policy, **more)


def beside(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def break_off(shop: Shop, path: Path, at: int) -> None:
    """Leave a partial file of about `at` bytes."""
    shop.breaks_after = [at]
    with pytest.raises(GaveUpError):
        get(shop, path, ONCE)
    assert beside(path) == ["a.xz.part", "a.xz.part.json"], "a broken download must not have the final name"
    shop.asked.clear()


def test_a_file_comes_whole_and_is_not_asked_for_again(shop: Shop, path: Path) -> None:
    assert get(shop, path) is True
    assert path.read_bytes() == CONTENT
    assert beside(path) == ["a.xz"]
    assert get(shop, path) is False
    assert shop.ranges == [None], "the second call must not ask the server"


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("repeats_validator", [True, False])
def test_a_dropped_connection_is_resumed_where_it_broke_off(
    shop: Shop, path: Path, validator: str, repeats_validator: bool
) -> None:
    shop.validator, shop.repeats_validator = validator, repeats_validator
    break_off(shop, path, 300_000)
    have = (path.parent / "a.xz.part").stat().st_size
    assert 0 < have <= 300_000
    shop.breaks_after = [100_000]
    get(shop, path)
    assert shop.ranges == [f"bytes={have}-", f"bytes={have + 100_000}-"]
    assert path.read_bytes() == CONTENT
    assert beside(path) == ["a.xz"]


def test_any_sequence_of_breaks_gives_the_same_bytes_and_no_byte_twice(shop: Shop, path: Path) -> None:
    draw = random.Random(1)
    for _ in range(5):
        shop.breaks_after, shop.asked = [draw.randrange(2, 200_000, 2) for _ in range(8)], []
        get(shop, path)  # more breaks than tries: what brings something new does not count as a failure
        assert path.read_bytes() == CONTENT
        starts = [int(str(wanted)[6:-1]) for wanted in shop.ranges[1:]]
        assert len(starts) >= QUICK.tries, "the case must be hard enough"
        assert starts == sorted(starts)
        path.unlink()


@pytest.mark.parametrize("breaks", [[100_001], [100_000]], ids=["reset", "orderly end"])
def test_both_kinds_of_breaking_off_are_tried_again(shop: Shop, path: Path, breaks: list[int]) -> None:
    shop.breaks_after = list(breaks)
    get(shop, path)
    assert path.read_bytes() == CONTENT
    assert len(shop.asked) == 2


@pytest.mark.parametrize("habit", ["no ranges", "no validator", "weak validator"])
def test_what_cannot_be_resumed_starts_over(shop: Shop, path: Path, habit: str) -> None:
    shop.knows_ranges = habit != "no ranges"
    shop.validator = {"no validator": "", "weak validator": "weak"}.get(habit, "ETag")
    break_off(shop, path, 300_000)
    get(shop, path)
    assert path.read_bytes() == CONTENT
    assert shop.ranges == (["bytes=300000-"] if habit == "no ranges" else [None])


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("habits", ["good", "no validator in a 206", "If-Range ignored", "both"])
@pytest.mark.parametrize("new_length", [len(CONTENT), 200_000, 900_000])
def test_versions_of_a_changed_file_are_never_mixed(
    shop: Shop, path: Path, validator: str, habits: str, new_length: int
) -> None:
    if habits == "both" and new_length == len(CONTENT):
        pytest.skip("nothing that the server says would tell these two apart")
    shop.validator = validator
    shop.minds_if_range, shop.repeats_validator = habits in ("good", "no validator in a 206"), habits[0] in "gI"
    break_off(shop, path, 300_000)
    shop.files["/a.xz"], shop.edition = random.Random(2).randbytes(new_length), 2
    get(shop, path)
    assert path.read_bytes() == shop.files["/a.xz"]


def test_a_server_that_always_breaks_off_is_not_asked_forever(shop: Shop, path: Path) -> None:
    shop.knows_ranges, shop.breaks_after = False, [300_000] * 50
    with pytest.raises(GaveUpError, match=r"gave up.*300,000 of 700,001.*give the same command again"):
        get(shop, path)
    assert len(shop.asked) == QUICK.tries
    assert not path.exists()


def test_a_file_shorter_than_promised_never_gets_its_name(shop: Shop, path: Path) -> None:
    shop.promised_too_much = 5
    with pytest.raises(GaveUpError):
        get(shop, path)
    assert not path.exists()


def test_giving_up_is_one_line_at_a_terminal(shop: Shop, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.breaks_after = [300_000]
    with pytest.raises(SystemExit) as stopped:
        run_cleanly(lambda: get(shop, path, ONCE))
    assert stopped.value.code == 3
    assert capsys.readouterr().err.splitlines() == [
        f"error: {shop.address}/a.xz: gave up (it broke off at 300,000 of 700,001 bytes); 300,000 bytes are kept; "
        "give the same command again to go on"
    ]


def test_a_length_that_is_not_told_is_not_needed_where_the_file_shows_its_end(shop: Shop, path: Path) -> None:
    shop.tells_length = False
    shop.files["/a.xz"] = lzma.compress(CONTENT)
    get(shop, path)
    assert path.read_bytes() == shop.files["/a.xz"]


def test_without_a_length_what_breaks_off_is_not_taken_for_whole(shop: Shop, path: Path) -> None:
    shop.tells_length = False
    shop.files["/a.xz"] = lzma.compress(CONTENT)
    shop.breaks_after = [300_000] * QUICK.tries
    with pytest.raises(GaveUpError, match=r"it ended at 300,000 bytes without having told a length, and is not whole"):
        get(shop, path)
    assert beside(path) == []
    shop.breaks_after = [300_000]
    get(shop, path)
    assert path.read_bytes() == shop.files["/a.xz"]


def test_without_a_length_the_checksum_decides_or_nothing_does(shop: Shop, path: Path) -> None:
    shop.tells_length = False
    shop.files["/a.xz"] = CONTENT
    plain = path.with_name("a.txt")
    with pytest.raises(InputError, match=r"does not tell its length; give what you expect with --sha256"):
        get(shop, plain)
    get(shop, plain, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert plain.read_bytes() == CONTENT


def test_an_answer_without_a_length_has_an_end(shop: Shop, path: Path) -> None:
    shop.tells_length = False
    with pytest.raises(InputError, match=r"more than 600,000 bytes from a server that does not tell .* --most_gb"):
        get(shop, path, dataclasses.replace(QUICK, most_unknown_bytes=600_000))
    assert beside(path) == []


def test_another_host_is_told_and_the_way_out_of_https_is_not_taken(
    shop: Shop, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.sends_on["/a.xz"] = f"http://localhost:{shop.server_port}/a.xz"
    get(shop, path)
    assert path.read_bytes() == CONTENT
    assert f"{shop.address}/a.xz: goes on at localhost" in capsys.readouterr().err
    asked = urllib.request.Request("https://good.org/a.xz")
    for address in ("http://good.org/a.xz", "ftp://good.org/a.xz", "file:///etc/passwd"):
        with pytest.raises(InputError, match=r"good\.org/a\.xz: the server sends us on to .*expected https"):
            _Redirects().redirect_request(asked, None, 302, "", None, address)


def test_what_a_server_says_does_not_reach_the_terminal_raw(
    shop: Shop, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.says = "\x1b[2J\x1b]0;title\x07"
    for status in (503, 403):
        shop.refusals = [status] * QUICK.tries
        with pytest.raises(SystemExit):
            run_cleanly(lambda: get(shop, path))
        said = capsys.readouterr().err
        assert "\\x1b[2J\\x1b]0;title\\x07" in said
        assert "\x1b" not in said


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(shop: Shop, path: Path, status: int) -> None:
    shop.refusals = [status] * (QUICK.tries - 1)
    get(shop, path)
    assert path.read_bytes() == CONTENT


def test_a_silent_server_is_left_after_the_timeout(shop: Shop, path: Path) -> None:
    shop.half_way = threading.Event()
    get(shop, path, RetryPolicy(tries=2, first_wait_seconds=0.001, timeout_seconds=0.2))
    assert path.read_bytes() == CONTENT
    assert shop.ranges == [None, "bytes=350000-"]


def test_nobody_at_the_address_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.xz"
        with pytest.raises(GaveUpError, match="refused"):
            download(url, tmp_path / "a.xz", retry_policy=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (410, NotFoundError), (403, InputError)])
def test_a_refusal_is_said_at_once_and_leaves_nothing(shop: Shop, path: Path, status: int, kind: type) -> None:
    shop.refusals = [status] * 9
    with pytest.raises(kind, match=f"{status}") as error:
        get(shop, path, hint="; try elsewhere")
    assert ("try elsewhere" in str(error.value)) == (kind is NotFoundError)
    assert len(shop.asked) == 1
    assert beside(path) == []


def test_a_web_page_is_not_taken_for_the_file(shop: Shop, path: Path) -> None:
    shop.content_type = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="sent a web page"):
        get(shop, path)
    assert beside(path) == []


def test_the_checksum_decides_whether_it_gets_its_name(shop: Shop, path: Path) -> None:
    right, wrong = hashlib.sha256(CONTENT).hexdigest(), "0" * 64
    with pytest.raises(InputError, match=f"its SHA-256 is {right}, expected {wrong}"):
        get(shop, path, sha256=wrong)
    assert not path.exists()
    assert get(shop, path, sha256=right.upper()) is True
    assert len(shop.asked) == 1, "a mistyped checksum must not cost a second download"
    with pytest.raises(InputError, match="its SHA-256 is"):
        get(shop, path, sha256=wrong)


def test_too_small_a_disk_is_said_before_the_first_byte(shop: Shop, path: Path) -> None:
    shop.promised_too_much = 1 << 60
    with pytest.raises(InputError, match=r"1,152,921,504,607,546,977 bytes are still to come and its disk has [\d,]+ free"):
        get(shop, path)
    assert beside(path) == []


@pytest.mark.parametrize("at", [400_000, len(CONTENT) - 1])
def test_a_full_disk_stops_cleanly_and_is_resumed(
    shop: Shop, path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(SystemExit) as stopped:
            run_cleanly(lambda: get(shop, path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"a.xz.part: File too large; {at:,} bytes are kept" in line
    assert (path.parent / "a.xz.part").read_bytes() == CONTENT[:at]
    get(shop, path)
    assert shop.ranges == [None, f"bytes={at}-"]
    assert path.read_bytes() == CONTENT


def test_a_second_fetch_of_the_same_file_is_refused_while_the_first_runs(shop: Shop, path: Path) -> None:
    half_way = shop.half_way = threading.Event()
    first = threading.Thread(target=get, args=(shop, path))
    first.start()
    assert half_way.wait(10)
    with pytest.raises(InputError, match=r"a\.xz\.part: another fetch is writing it"):
        get(shop, path)
    shop.may_go_on.set()
    first.join()
    assert path.read_bytes() == CONTENT
    assert len(shop.asked) == 1
    assert beside(path) == ["a.xz"]


@pytest.mark.parametrize(
    "files",
    [
        {"a.xz.part": b"of curl, wget or a browser"},
        {"a.xz.part": b"x" * 1000, "a.xz.part.json": b"{ torn"},
        {"a.xz.part.json": b'["notes"]'},
    ],
)
def test_partial_files_of_other_programs_are_neither_built_upon_nor_replaced(
    shop: Shop, path: Path, files: dict[str, bytes]
) -> None:
    path.parent.mkdir()
    for name, content in files.items():
        (path.parent / name).write_bytes(content)
    with pytest.raises(InputError, match=r"a\.xz\.part: not of a fetch of ours .* rename or remove"):
        get(shop, path)
    assert {name: (path.parent / name).read_bytes() for name in files} == files
    for name in files:
        (path.parent / name).unlink()
    get(shop, path)
    assert path.read_bytes() == CONTENT


def test_a_partial_file_that_is_a_link_is_not_written_through(shop: Shop, path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"")  # empty: no content of somebody's to be seen
    path.parent.mkdir()
    (path.parent / "a.xz.part").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        get(shop, path)
    assert precious.read_bytes() == b""
    assert not shop.asked


def test_an_end_between_last_byte_and_renaming_costs_no_second_download(shop: Shop, path: Path) -> None:
    break_off(shop, path, 300_000)
    with open(path.parent / "a.xz.part", "ab") as file:
        file.write(CONTENT[300_000:])
    get(shop, path)
    assert shop.asked == []
    assert path.read_bytes() == CONTENT


def test_a_mirror_takes_the_place_of_scheme_and_host() -> None:
    url = "https://data.example/cc-100/sw.txt.xz?a=b"
    assert mirrored(url, None) == url
    assert mirrored(url, "http://other:8000/data/") == "http://other:8000/data/cc-100/sw.txt.xz?a=b"
    for wrong in ("other", "file:///etc", "https://", "https://a b", "http://h/?q"):
        with pytest.raises(InputError, match="expected an address such as"):
            mirrored(url, wrong)


def answering(*pieces: bytes, without_end: bytes = b"") -> str:
    """The address of a server that says this to those who ask, whatever they ask, and then `without_end` again and again."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(5)

    def serve() -> None:
        with listening, contextlib.suppress(TimeoutError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(b"".join(pieces))
                    while without_end:
                        connection.sendall(without_end)
                        time.sleep(0.02)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/a.txt"


OK, NOTHING = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n\r\n"
STRANGE_ANSWERS = {
    "no address": (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n" + NOTHING, "an address that is none"),
    "round and round": (b"HTTP/1.1 302 Found\r\nLocation: /a.txt\r\n" + NOTHING, "infinite loop"),
    "packed": (OK + b"Content-Encoding: gzip\r\n" + NOTHING, r"packed the file by itself \(gzip\)"),
    "a length of many digits": (
        b"HTTP/1.1 206 Some\r\nContent-Range: bytes 0-9/" + b"9" * 5000 + b"\r\n" + NOTHING,
        "does not tell its length",
    ),
    "nothing": (OK + NOTHING, "sent an empty file"),
    "nothing, in chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "sent an empty file"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "the server answered 204 No Content, expected the file"),
    "later": (b"HTTP/1.1 202 Accepted\r\n" + NOTHING, "the server answered 202 Accepted, expected the file"),
    "two lengths": (OK + b"Content-Length: 4\r\nContent-Length: 9\r\n\r\ntext", r"tells two lengths \(4 and 9\)"),
    "packed, said twice": (OK + b"Content-Encoding: identity\r\nContent-Encoding: br\r\n" + NOTHING, "packed the file by"),
}


@pytest.mark.parametrize("what", STRANGE_ANSWERS)
def test_a_strange_answer_is_one_line(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    answer, message = STRANGE_ANSWERS[what]
    with pytest.raises((InputError, GaveUpError), match=message) as refusal:
        download(answering(answer), path.with_suffix(".txt"), retry_policy=QUICK)
    assert "\n" not in str(refusal.value)
    assert not path.with_suffix(".txt").exists()


def test_what_is_packed_is_whole_at_its_own_end_whatever_ends_the_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on the way may close the chunks of an answer that broke off behind it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = lzma.compress(b"text\n" * 100)
    for part, is_whole in ((content, True), (content[:-9], False)):
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part)
        url = answering(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        if is_whole:
            assert download(url, path, retry_policy=QUICK)
            path.unlink()
        else:
            with pytest.raises(GaveUpError, match="without having told a length, and is not whole"):
                download(url, path, retry_policy=QUICK)
    assert not path.exists()


ENDLESS = {
    "before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "in the headers": (OK, b"X"),
    "in a size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "behind the file": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("where", ENDLESS)
def test_a_server_that_always_says_something_and_nothing_of_the_file_is_left(
    path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    before, again = ENDLESS[where]
    policy = RetryPolicy(tries=1, timeout_seconds=0.3)
    with pytest.raises(GaveUpError, match=r"the server said nothing of the file in 0\.6 s"):
        download(answering(before, without_end=again), path.with_suffix(".txt"), retry_policy=policy)
    assert not path.with_suffix(".txt").exists()
