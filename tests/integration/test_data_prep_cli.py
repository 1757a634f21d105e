"""`python -m data_prep`, from raw text to statistics, as a person would run it."""

from __future__ import annotations

import lzma
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import embedded
from tests.tokenizer_fixtures import changed, word_piece

ROOT = Path(__file__).resolve().parents[2]
TEXT = "the small house is green and the dog runs over a bridge nyumba ndogo ni ya kijani"
WORDS = TEXT.split()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=6)) for _ in range(300)]
    (tmp_path / "en.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    (tmp_path / "p.tsv").write_text("\n".join(f"{line}\t{line} sw" for line in lines) + "\nno tab\n")
    path = tmp_path / "c.yaml"
    path.write_text(
        "corpora:\n"
        "  - {name: m.en, format: cc100, path: en.txt.xz, language: en}\n"
        "  - {name: p.en-sw, format: tsv, path: p.tsv, languages: [en, sw], held_out: 0.1}\n"
    )
    return path


def test_the_commands_in_their_order(catalog: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "spm.model", tmp_path / "data"
    trained = run("train-tokenizer", "--catalog", catalog, "--out", model, "--vocab_size", 42)
    assert trained.returncode == 0, trained.stderr
    assert "a vocabulary of 42" in trained.stdout
    guessed = run("build", "--catalog", catalog, "--tokenizer", model, "--out", out, "--estimate")
    assert (guessed.returncode, out.exists()) == (0, False)
    assert "of shards (" in guessed.stdout
    built = run("build", "--catalog", catalog, "--tokenizer", model, "--out", out, "--workers=2", "--shard_mb=1")
    assert built.returncode == 0, built.stderr
    assert "p.en-sw  tsv     en sw" in built.stdout
    assert "1 rejected: not 2 columns (first: line 301)" in built.stdout
    again = run("build", "--catalog", catalog, "--tokenizer", model, "--out", out)
    assert_one_line(again, "--overwrite")
    assert run("build", "-c", catalog, "-t", model, "--out", out, "--overwrite").returncode == 0
    verified = run("verify", "--data", out, "--tokenizer", model, "--workers", 2)
    assert (verified.returncode, "all files are whole" in verified.stdout) == (0, True)
    documented = re.search(r"```python\n(.*?)```", (ROOT / "docs/data_format.md").read_text(), re.DOTALL)
    assert documented
    read = subprocess.run([sys.executable, "-c", documented[1]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(read.stdout.splitlines()) == len(list(out.rglob("*.arrow"))) - 1  # a line a shard; one file is their table
    shown = run("stats", "--data", out, "--alpha", 0.7)
    assert shown.returncode == 0
    assert "p (alpha 0.7)" in shown.stdout
    shard = out / "shards/m.en/train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_one_line(run("verify", "--data", out), "train-00000.arrow")
    assert_one_line(run("stats", "--data", out), "train-00000.arrow")


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts), result.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["biuld"], ["did you mean `build`"]),
        (["build", "--catalog", "c", "--tokenzier", "t"], ["--tokenzier", "did you mean `tokenizer`"]),
        (["build", "--catalog", "gone.yaml", "--tokenizer", "t", "--out", "o"], ["gone.yaml: no such file"]),
        (["build", "--catalog", "c", "--tokenizer", "t"], ["--out is missing"]),
        (["build", "--catalog", "c", "--tokenizer", "t", "--out"], ["--out has no value"]),
        (["build", "--catalog=c", "--tokenizer=t", "--out=o", "--shard_mb=0"], ["--shard_mb 0", "from 1 to 256"]),
        (["build", "--catalog=c", "--tokenizer=t", "--out=o", "--workers=0"], ["--workers 0"]),
        (["build", "--catalog=c", "--tokenizer=t", "--out=o", "--on_error=skip"], ["--on_error skip", "stop or quarantine"]),
        (["build", "--catalog=c", "--tokenizer=t", "--out=o", "--overwrite=2"], ["--overwrite=2; a flag takes no value"]),
        (["build", "c", "t"], ["unexpected `c`"]),
        (["stats", "--data", "1e3"], ["data folder 1e3: no such folder"]),
        (["stats", "--data", "x", "--alpha", "7"], ["--alpha 7"]),
        (["verify", "--data", "."], ["manifest.json: missing"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(*arguments), *parts)


def test_a_build_takes_a_folder_of_hugging_faces_and_refuses_what_is_none_in_one_line(catalog: Path, tmp_path: Path) -> None:
    tokenizer, out = word_piece([embedded.sentence(0, i, "en") for i in range(50)], tmp_path / "hf", 150), tmp_path / "data"
    build = ("build", "--catalog", catalog, "--out", out, "--allow_unknown", "--tokenizer")
    (tmp_path / "empty").mkdir()
    assert_one_line(run(*build, tmp_path / "empty"), "a folder without tokenizer.json or sentencepiece.bpe.model")
    assert_one_line(run(*build, "nobody/has-this"), "no hub id whose tokenizer.json is in the local cache")
    nothing_around = changed(tokenizer, tmp_path / "decoder", lambda it: it.update(post_processor=None), {})
    assert_one_line(run(*build, nothing_around), "it puts no token before a text (a decoder's tokenizer?)")
    assert not out.exists()
    built = run(*build, tokenizer, "--workers", 2)
    assert built.returncode == 0, built.stderr
    assert "tokenizer: a WordPiece tokenizer.json" in built.stdout
    assert run("verify", "--data", out, "--tokenizer", tokenizer / "tokenizer.json").returncode == 0


def test_a_truncated_corpus_leaves_no_finished_folder(catalog: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "spm.model", tmp_path / "data"
    assert run("train-tokenizer", "--catalog", catalog, "--out", model, "--vocab_size", 42).returncode == 0
    path = tmp_path / "en.txt.xz"
    path.write_bytes(path.read_bytes()[:-5])
    result = run("build", "--catalog", catalog, "--tokenizer", model, "--out", out)
    assert result.returncode == 2
    assert "corpus m.en" in result.stderr.splitlines()[-1]
    assert "en.txt.xz: truncated" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.arrow"))
    assert not (out / "manifest.json").exists()


def test_help_teaches_the_order_of_the_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "train-tokenizer --catalog" in result.stdout + result.stderr
    detail = run("train-tokenizer", "--help")
    assert "character_coverage" in detail.stdout + detail.stderr
