"""Weights under other ids are refused, however the folder tells what its ids mean; and hub ids are read from the cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from sentencepiece import sentencepiece_model_pb2

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import FIRST_PIECE_ID
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop import weight_files
from ernie_m.interop.backbone_folder import carried_files
from ernie_m.interop.export import export
from ernie_m.interop.same_vocabulary import check_vocabulary
from ernie_m.interop.weight_files import folder_of
from tests.fixtures.ernie_m_export import CONFIG, export_random, random_encoder, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data's: 64 pieces."""
    return train_tokenizer(tmp_path_factory.mktemp("data") / "sentencepiece.bpe.model", 64)


@pytest.fixture(scope="module")
def exported(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with sentencepiece.bpe.model and tokenizer.json."""
    folder = tmp_path_factory.mktemp("exported")
    export(random_encoder().state_dict(), CONFIG, tokenizer, folder)
    return folder


def with_pieces(tokenizer: Path, to: Path, changes: dict[int, str]) -> Path:
    """The model with other pieces at these SentencePiece ids."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    for place, piece in changes.items():
        model.pieces[place].piece = piece
    to.write_bytes(model.SerializeToString())
    return to


def checked(folder: Path, tokenizer: Path) -> str:
    return check_vocabulary(folder, tokenizer, sha256_of(tokenizer))


def write_text(path: Path, tokenizer: Path) -> list[str]:
    """ERNIE-M's vocab.txt: a line an id."""
    pieces = [piece.piece for piece in Vocabulary(tokenizer).model_proto().pieces]
    lines = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *pieces[3:], "[MASK]"]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lines


def test_the_same_file_is_known_by_its_hash(exported: Path, tokenizer: Path) -> None:
    assert checked(exported, tokenizer).startswith("sentencepiece.bpe.model is the data's (SHA-256 ")


def test_the_same_pieces_in_another_file_are_the_same_vocabulary(tokenizer: Path, tmp_path: Path) -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    model.trainer_spec.input.append("elsewhere")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    assert sha256_of(tmp_path / "sentencepiece.bpe.model") != sha256_of(tokenizer)
    assert checked(tmp_path, tokenizer) == "sentencepiece.bpe.model has the data's pieces"


def test_other_pieces_are_refused_with_the_first_id_that_differs(tokenizer: Path, tmp_path: Path) -> None:
    with_pieces(tokenizer, tmp_path / "sentencepiece.bpe.model", {20: "AAA", 30: "BBB"})
    expected = rf"sentencepiece.bpe.model: 2 of 61 ids mean other pieces: id {20 + 1} is 'AAA', in the data "
    with pytest.raises(InputError, match=expected):
        checked(tmp_path, tokenizer)
    train_tokenizer(tmp_path / "sentencepiece.bpe.model", 60)
    with pytest.raises(InputError, match=r"57 pieces, the data's tokenizer .* has 61; build the data with the weights' own"):
        checked(tmp_path, tokenizer)


def test_without_the_model_the_fast_tokenizer_tells(exported: Path, tokenizer: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "tokenizer.json", tmp_path)
    assert checked(tmp_path, tokenizer) == "tokenizer.json has the data's pieces"
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary[10], vocabulary[11] = vocabulary[11], vocabulary[10]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="2 of 61 ids mean other pieces: id 10 is "):
        checked(tmp_path, tokenizer)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 1}}}')
    with pytest.raises(InputError, match="not a unigram tokenizer"):
        checked(tmp_path, tokenizer)


def test_the_lines_of_ERNIE_M_count_beside_its_model(tokenizer: Path, tmp_path: Path) -> None:
    shutil.copy(tokenizer, tmp_path / "sentencepiece.bpe.model")
    lines = write_text(tmp_path / "vocab.txt", tokenizer)
    assert "vocab.txt has the data's pieces" in checked(tmp_path, tokenizer)
    moved = [*lines[:4], *lines[5:-1], lines[4], lines[-1]]
    (tmp_path / "vocab.txt").write_text("\n".join(moved) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"vocab.txt: 61 of 61 ids mean other pieces: id {FIRST_PIECE_ID} is "):
        checked(tmp_path, tokenizer)


def test_a_few_symbols_of_somebodys_own_are_told_but_no_reason_to_refuse(tmp_path: Path) -> None:
    model = sentencepiece_model_pb2.ModelProto()
    for number in range(2003):
        special = ("<unk>", "<s>", "</s>")
        kind = model.SentencePiece.Type.NORMAL if number > 2 else 3 if number else 2
        model.pieces.add(piece=special[number] if number < 3 else f"p{number}", score=-float(number), type=kind)
    ours = tmp_path / "ours.model"
    ours.write_bytes(model.SerializeToString())
    for count, is_fine in ((2, True), (3, False)):
        with_pieces(ours, tmp_path / "sentencepiece.bpe.model", {50 + i: f"<own{i}>" for i in range(count)})
        if is_fine:
            told = "has the data's pieces but for 2 (id 51 is '<own0>', in the data 'p50')"
            assert told in checked(tmp_path, ours)
        else:
            with pytest.raises(InputError, match="3 of 2,000 ids mean other pieces"):
                checked(tmp_path, ours)


def test_a_hub_id_is_taken_from_the_cache_without_asking_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's layout is the hub library's own; nothing is fetched."""
    repository = tmp_path / "models--some--encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    export_random(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert folder_of("some/encoder") == snapshot
    with pytest.raises(InputError, match="some/other: no such folder, not in the hub's local cache, and the hub cannot be"):
        folder_of("some/other")


def test_a_hub_id_comes_with_the_modules_of_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its pooling would not be known, and its export would not open there."""
    hub, snapshot = tmp_path / "hub", tmp_path / "snapshot"
    hub.mkdir()
    export_random(hub)
    (hub / "1_Pooling").mkdir()
    (hub / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]))
    (hub / "1_Pooling/config.json").write_text("{}")

    def fetched(name: str, file: str, local_files_only: bool) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        if not (hub / file).is_file():
            raise EntryNotFoundError(file)
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(hub / file, snapshot / file))

    monkeypatch.setattr(weight_files, "hf_hub_download", fetched)
    assert {"modules.json", "1_Pooling/config.json"} <= {*carried_files(folder_of("some/encoder"))}
    (hub / "modules.json").write_text(json.dumps([{"path": "../secrets"}]))
    with pytest.raises(InputError, match=r"modules.json: its module \.\./secrets lies outside of the folder"):
        folder_of("some/encoder")
