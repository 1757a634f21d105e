"""A build with a tokenizer of Hugging Face's: the rows are transformers' ids, the folder tells and keeps the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from prep_samples import SMALL, contents, rows_of, sentences
from transformers import AutoTokenizer

from data_prep.build import Options, build
from data_prep.known_tokenizers import recognised
from data_prep.verify import verify
from data_prep.workers import Ranks
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of, write_json
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import CorpusFolder, Manifest
from ernie_m.corpus.vocabulary import TOKENIZER_FILE
from tests.tokenizer_fixtures import KINDS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("tokenizers")
    return {kind: make(sentences(400, seed=1), made / kind, 400) for kind, make in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_transformers_ids_and_the_folder_keeps_the_tokenizer(
    kind: str, folders: dict[str, Path], catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, theirs = tmp_path / "out", AutoTokenizer.from_pretrained(folders[kind])
    manifest = build(catalog, folders[kind], out, SMALL)
    assert manifest is not None
    assert f"tokenizer: a {kind} tokenizer.json, {len(theirs):,} ids" in capsys.readouterr().out
    expected = theirs([f"{text}" for text in sentences(50, 2)], add_special_tokens=False)["input_ids"]
    found = [row["source"] for split in ("train", "held_out") for row in rows_of(out, "p.de-fr", split)]
    assert sorted(found) == sorted(expected)
    assert CorpusFolder(out).manifest == manifest
    assert manifest.specials == open_vocabulary(folders[kind]).specials
    assert manifest.tokenizer_file == "tokenizer.json"
    assert not (out / TOKENIZER_FILE).exists()
    for path in folders[kind].iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
        assert {"tokenizer.json": manifest.tokenizer_sha256, **manifest.tokenizer_companions}[path.name] == sha256_of(path)
    assert AutoTokenizer.from_pretrained(out)("one")["input_ids"] == theirs("one")["input_ids"]
    assert verify(out, folders[kind]) == []
    (out / "tokenizer_config.json").unlink()
    build(catalog, folders[kind], out, SMALL)
    assert "its tokenizer was copied again" in capsys.readouterr().out
    assert verify(out, folders[kind]) == []


def test_the_bytes_are_the_same_on_two_processes(folders: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    for out, ranks in (("one", Ranks(1)), ("two", Ranks(2))):
        build(catalog, folders["byte-level BPE"] / "tokenizer.json", tmp_path / out, SMALL, ranks)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_verify_tells_what_became_of_the_tokenizers_files(folders: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(catalog, folders["WordPiece"], out, SMALL)
    (failure,) = verify(out, folders["byte-level BPE"])
    assert "not the one of" in failure
    config = (out / "tokenizer_config.json").read_text()
    (out / "tokenizer_config.json").write_text("{}")
    (failure,) = verify(out)
    assert "tokenizer_config.json: missing or not the file of this tokenizer; rebuild the data" in failure
    (out / "tokenizer_config.json").write_text(config)
    content = json.loads((out / "manifest.json").read_text())
    content["special_tokens"]["replaceable"] = [[20, 30]]
    write_json(out / "manifest.json", content)
    (failure,) = verify(out)
    assert "its replaceable is" in failure


def test_verify_finds_special_ids_among_others(folders: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    """BERT's lie in the middle of the vocabulary: no range from 3 to the mask."""
    out = tmp_path / "out"
    build(catalog, folders["WordPiece"], out, SMALL)
    content = json.loads((out / "manifest.json").read_text())
    used = np.unique([i for row in rows_of(out, "mono.en", "train") for i in row["tokens"]])
    content["special_tokens"] |= {"pad": int(used[3]), "replaceable": [[9, int(used[3])]]}
    write_json(out / "manifest.json", content)
    assert any(f"expected 0 to 5, 9 to {used[3] - 1}, {used[3] + 1} to " in failure for failure in verify(out))


def test_an_overwritten_build_leaves_no_file_of_the_other_tokenizer(
    folders: dict[str, Path], tokenizer: Path, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(catalog, folders["WordPiece"], out, SMALL)
    assert (out / "tokenizer_config.json").exists()
    build(catalog, tokenizer, out, Options(chunk_bytes=3000, overwrite=True))
    assert {path.name for path in out.iterdir() if "token" in path.name or "piece" in path.name} == {TOKENIZER_FILE}


def test_its_hash_can_be_demanded(folders: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    vocabulary = open_vocabulary(folders["WordPiece"])
    recognised(vocabulary, vocabulary.fingerprint[:8])
    with pytest.raises(InputError, match="--tokenizer_sha256 expects 00000000"):
        build(catalog, folders["WordPiece"], tmp_path / "out", Options(tokenizer_sha256="00000000"))


def test_a_folder_with_a_SentencePiece_model_alone_is_that_model(tokenizer: Path, catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    shutil.copyfile(tokenizer, tmp_path / "hf" / TOKENIZER_FILE)
    of_file, of_folder = (build(catalog, it, tmp_path / n, SMALL) for n, it in (("a", tokenizer), ("b", tmp_path / "hf")))
    assert of_file == of_folder
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    write_json(tmp_path / "hf" / "config.json", {"model_type": "bert"})  # as multilingual-e5-small is
    assert open_vocabulary(tmp_path / "hf").specials.first_position == 0


def test_folders_of_format_2_are_of_XLM_Rs_layout(built: Path) -> None:
    now = Manifest.read(built)
    content = json.loads((built / "manifest.json").read_text())
    assert content["format_version"] == 3
    del content["special_tokens"], content["tokenizer_companions"]
    write_json(built / "manifest.json", content | {"format_version": 2, "vocab_size": now.vocab_size})
    assert Manifest.read(built) == now
    assert now.specials == Specials.xlm_r(now.vocab_size)
    assert verify(built) == []


def test_a_tokenizer_in_the_output_folder_is_refused(folders: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    shutil.copytree(folders["WordPiece"], tmp_path / "out" / "hf")
    with pytest.raises(InputError, match="lies in the output folder"):
        build(catalog, tmp_path / "out" / "hf", tmp_path / "out", SMALL)
