"""`verify` finds whatever is wrong with a built folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import sentencepiece
from prep_samples import rows_of, sentences

from data_prep.verify import verify
from ernie_m.corpus.folder import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, Manifest
from ernie_m.corpus.vocabulary import TOKENIZER_FILE


@pytest.mark.parametrize("name", ["shards/mono.en/train-00000.arrow", "shards/t.de-en/held_out-00000.arrow", TOKENIZER_FILE])
def test_verify_finds_a_flipped_byte(built: Path, name: str) -> None:
    assert verify(built) == []
    path = built / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (failure,) = verify(built)
    assert name in failure
    assert "SHA-256" in failure


@pytest.mark.parametrize("name", ["shards/mono.en/train-00000.arrow", TOKENIZER_FILE])
def test_verify_finds_a_missing_file(built: Path, name: str) -> None:
    (built / name).unlink()
    (failure,) = verify(built)
    assert f"{name}: missing" in failure


def test_verify_reports_every_failure(built: Path) -> None:
    for path in sorted((built / "shards/t.de-en").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:-1])
    assert len(verify(built)) == 3


def test_verify_refuses_another_tokenizer(built: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert verify(built, tokenizer) == []
    other = tmp_path / "other.model"
    with open(other, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(400, seed=9)),
            model_writer=file,
            vocab_size=110,
            model_type="bpe",
            minloglevel=3,
        )
    (failure,) = verify(built, other)
    assert "not the one of" in failure


def rewrite_shard(folder: Path, batch: pa.RecordBatch) -> None:
    """Replace the monolingual shard and make the manifest's size and hash agree, as a faulty writer would."""
    from ernie_m.base.files import sha256_of

    path = folder / "shards/mono.en/train-00000.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    manifest = Manifest.read(folder)
    mono = manifest.corpora[0]
    entry = dataclasses.replace(mono.shards[0], bytes=path.stat().st_size, sha256=sha256_of(path))
    corpora = (dataclasses.replace(mono, shards=(entry,)), *manifest.corpora[1:])
    dataclasses.replace(manifest, corpora=corpora).write(folder)


@pytest.mark.parametrize(
    ("bad_id", "message"),
    [(None, ""), (1, "ids from 1"), (-5, "ids from -5"), (121, "expected 3 to 120"), (10**6, "1000000")],
)
def test_verify_finds_ids_outside_the_vocabulary(built: Path, bad_id: int | None, message: str) -> None:
    assert Manifest.read(built).vocab_size == 122
    rows = rows_of(built, "mono.en", "train")
    if bad_id is not None:
        rows[3]["tokens"][0] = bad_id
    rewrite_shard(built, pa.RecordBatch.from_pylist(rows, schema=MONOLINGUAL_SCHEMA))
    failures = verify(built)
    assert len(failures) == (bad_id is not None)
    assert all(message in failure for failure in failures)


def test_verify_finds_wrong_rows_tokens_and_schema(built: Path) -> None:
    rows = rows_of(built, "mono.en", "train")
    rewrite_shard(built, pa.RecordBatch.from_pylist(rows[:-1], schema=MONOLINGUAL_SCHEMA))
    assert any("29 rows, the manifest says 30" in failure for failure in verify(built))
    assert any("tokens, the manifest says" in failure for failure in verify(built))
    empty = [{**row, "tokens": []} if i == 2 else row for i, row in enumerate(rows)]
    rewrite_shard(built, pa.RecordBatch.from_pylist(empty, schema=MONOLINGUAL_SCHEMA))
    assert any("rows without tokens" in failure for failure in verify(built))
    ends = [{**row, "starts_document": False} for row in rows]
    rewrite_shard(built, pa.RecordBatch.from_pylist(ends, schema=MONOLINGUAL_SCHEMA))
    assert any("0 documents start, the manifest says 10" in failure for failure in verify(built))
    pairs = [{"source": row["tokens"], "target": row["tokens"]} for row in rows]
    rewrite_shard(built, pa.RecordBatch.from_pylist(pairs, schema=PARALLEL_SCHEMA))
    assert any("schema is" in failure for failure in verify(built))


def test_verify_finds_lines_that_the_manifest_lost(built: Path) -> None:
    manifest = Manifest.read(built)
    corpora = (dataclasses.replace(manifest.corpora[0], lines_read=31), *manifest.corpora[1:])
    dataclasses.replace(manifest, corpora=corpora).write(built)
    (failure,) = verify(built)
    assert "30 rows and 0 rejected of 31 lines" in failure
