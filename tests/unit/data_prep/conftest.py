"""A small SentencePiece model and a small catalog, made from scratch."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from prep_samples import SMALL, sentences
from test_data_prep_fetch_server import Shop, opened_shop

from data_prep.build import build
from data_prep.fetch import cc100_listing


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE model with XLM-R's layout."""
    path = tmp_path_factory.mktemp("tokenizer") / "spm.model"
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(400, seed=1)),
            model_writer=file,
            vocab_size=120,
            model_type="bpe",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=3,
        )
    return path


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A server of files that are small, on a disk that has room for CC-100."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cc100_listing, "SIZES", dict.fromkeys(cc100_listing.SIZES, 1))  # the real ones need a big disk
    with opened_shop() as shop:
        yield shop


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A monolingual and a parallel corpus; the pairs hold a blank side, an undecodable side and every text twice."""
    folder = tmp_path / "corpora"
    folder.mkdir()
    documents = ["\n".join(sentences(3, seed)) for seed in range(10)]
    (folder / "en.txt.xz").write_bytes(lzma.compress("\n\n".join(documents).encode() + b"\n"))
    source = [line.encode() for line in sentences(200, seed=2)] * 2 + [b"   ", b"\xff\xfe", b"good"]
    target = [line.encode() for line in sentences(400, seed=3)] + [b"blank on the other side", b"also", b"gut"]
    with zipfile.ZipFile(folder / "T.de-en.txt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README", "about")
        archive.writestr("T.de-en.en", b"\n".join(target) + b"\n")
        archive.writestr("T.de-en.de", b"\n".join(source) + b"\n")
    (folder / "pairs.tsv.gz").write_bytes(gzip.compress("\n".join(f"{t}\t{t} ja" for t in sentences(50, 2)).encode()))
    path = folder / "catalog.yaml"
    path.write_text(
        "allow_held_out: true\ncorpora:\n"
        "  - {name: mono.en, format: cc100, path: en.txt.xz, language: en}\n"
        "  - {name: t.de-en, format: moses, path: T.de-en.txt.zip, languages: [de, en], held_out: 0.2}\n"
        "  - {name: p.de-fr, format: tsv, path: pairs.tsv.gz, languages: [de, fr], held_out: 0.2}\n"
    )
    return path


@pytest.fixture
def built(catalog: Path, tokenizer: Path, tmp_path: Path) -> Path:
    """That catalog, built in many chunks."""
    build(catalog, tokenizer, tmp_path / "out", SMALL)
    return tmp_path / "out"
