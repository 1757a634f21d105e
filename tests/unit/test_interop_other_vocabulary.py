"""`init_from` with another vocabulary than the data's: rows by piece, the rest as means of the old segmentation's rows."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor
from transformers import XLMRobertaForMaskedLM, XLMRobertaTokenizer

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.spelling import BYTES, MARKED, WORD_PIECE
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.other_vocabulary import rows_by_piece, vocabulary_of
from ernie_m.interop.source import open_source
from ernie_m.interop.start import start_from
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import RunFolder
from tests.fixtures.ernie_m_export import CONFIG as OLD_CONFIG
from tests.fixtures.ernie_m_export import TEXTS, random_encoder, train_tokenizer
from tests.interop_fixtures import LANGUAGES, SEED, as_batch, loaded, random_xlm_roberta, target_of
from tests.tokenizer_fixtures import byte_level, metaspace, word_piece

OTHER_TEXTS = [*TEXTS, "A small dog runs over the green bridge", "Die Katze ist klein"]
BIAS, WORDS = "heads.token.decoder_bias", "embeddings.word.weight"
ALONE = Voters(0, 1)
LONGEST = 16  # of 18 positions


@pytest.fixture(scope="module")
def peer() -> XLMRobertaForMaskedLM:
    return random_xlm_roberta(OLD_CONFIG)


@pytest.fixture(scope="module")
def weights(peer: XLMRobertaForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of 66 tokens, with their SentencePiece model."""
    folder = tmp_path_factory.mktemp("weights")
    peer.save_pretrained(folder)
    train_tokenizer(folder / "sentencepiece.bpe.model", OLD_CONFIG.vocab - 2)
    return folder


def data_of(tokenizer: Path) -> tuple[ModelConfig, Path, str]:
    """What a run on data of that tokenizer has."""
    return replace(OLD_CONFIG, vocab_size=open_vocabulary(tokenizer).size), tokenizer, sha256_of(tokenizer)


def shuffled(tokenizer: Path, to: Path) -> Path:
    """The same pieces and scores under other ids."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    pieces = [*model.pieces][3:]
    random.Random(0).shuffle(pieces)
    del model.pieces[3:]
    model.pieces.extend(pieces)
    to.write_bytes(model.SerializeToString())
    return to


def states(model: Encoder, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model.hidden_states(as_batch(torch.tensor([[0, *ids[:LONGEST], 2]])))


def test_the_same_pieces_under_other_ids_are_the_same_encoder(weights: Path, tmp_path: Path) -> None:
    own = Vocabulary(weights / "sentencepiece.bpe.model")
    other = shuffled(own.path, tmp_path / "other.model")
    first, _ = loaded(weights, target_of(*data_of(own.path)))
    second, left = loaded(weights, target_of(*data_of(other)))
    assert left == ["embeddings.language.weight"]
    told = open_source(str(weights), target_of(*data_of(other))).vocabulary
    expected = "of 66 rows 66 are copied by piece, 0 start as the mean of the pieces that it cuts them into"
    assert told == f"another vocabulary (sentencepiece.bpe.model): {expected}"
    for text in TEXTS:
        ids, others = own.encode(text).tolist(), Vocabulary(other).encode(text).tolist()
        assert ids != others
        assert torch.equal(states(first, ids), states(second, others))


def test_other_pieces_start_as_the_mean_of_what_they_were_cut_into(
    weights: Path, peer: XLMRobertaForMaskedLM, tmp_path: Path
) -> None:
    other = Vocabulary(train_tokenizer(tmp_path / "other.model", 70, OTHER_TEXTS))
    config, *target = data_of(other.path)
    assert config.vocab == 72 != OLD_CONFIG.vocab
    model, _ = loaded(weights, target_of(config, *target))
    own = Vocabulary(weights / "sentencepiece.bpe.model")
    bare = own.model_proto()
    bare.normalizer_spec.name, bare.normalizer_spec.precompiled_charsmap = "identity", b""
    bare.normalizer_spec.add_dummy_prefix = bare.normalizer_spec.remove_extra_whitespaces = False
    cut = sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())
    theirs = {name: i for i, name in enumerate(own.pieces(range(own.size)))}
    stored = {WORDS: peer.get_input_embeddings().weight, BIAS: peer.lm_head.bias}
    found, same, mean = dict(model.named_parameters()), 0, 0
    for i, name in enumerate(other.pieces(range(other.size))):
        parts = (
            [theirs[name]] if name in theirs else [theirs[part] for part in cut.encode(name, out_type=str) if part in theirs]
        )
        same, mean = same + (name in theirs), mean + (name not in theirs)
        for parameter, rows in stored.items():
            expected = rows[parts].mean(dim=0) if parts else rows.mean(dim=0)
            torch.testing.assert_close(found[parameter][i], expected)
    assert same > 40
    assert mean > 3
    assert f"of 72 rows {same} are copied by piece" in open_source(str(weights), target_of(config, *target)).vocabulary


def test_a_run_gives_its_rows_to_a_run_on_data_of_another_tokenizer(tmp_path: Path) -> None:
    own = train_tokenizer(tmp_path / "sentencepiece.bpe.model", OLD_CONFIG.vocab - 2)
    other = shuffled(own, tmp_path / "other.model")
    old, run = random_encoder(), RunFolder(tmp_path / "run")
    identity = {"folder": str(tmp_path), "tokenizer_sha256": sha256_of(own), "languages": [*LANGUAGES]}
    with run.locked():
        run.start({"stages": [], "model": dict(vars(old.config)), "data_identity": identity}, from_scratch=False)
    flat = {f"{name}@0:weight": parameter.data.view(-1) for name, parameter in old.named_parameters()}
    CheckpointStore(run.checkpoints, ALONE).save(3, flat, {})
    target = target_of(*data_of(other))
    new = Encoder(target.config).initialise(SEED).eval()
    started = start_from(str(run.path), target, new, ALONE)
    assert started.kind == "a run of ours"
    assert "66 are copied by piece" in started.lines()[0]
    for text in TEXTS:
        ids, others = (Vocabulary(path).encode(text).tolist() for path in (own, other))
        assert torch.equal(states(old, ids), states(new, others))


def test_data_of_a_json_tokenizer_start_from_weights_with_it(weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights, tmp_path / "both"))
    XLMRobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    fast = folder / "tokenizer.json"
    assert vocabulary_of(folder, fast, sha256_of(fast)) == ("tokenizer.json has the data's pieces", None)
    content = json.loads(fast.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary[10], vocabulary[11] = vocabulary[11], vocabulary[10]
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content), encoding="utf-8")
    told, rows = vocabulary_of(folder, other, sha256_of(other))
    assert rows is not None
    assert rows.same().tolist() == [*range(10), 11, 10, *range(12, 66)]
    assert "66 are copied" in told


def test_pieces_meet_across_kinds_of_tokenizers(tmp_path: Path) -> None:
    lines = [line for line in TEXTS for _ in range(5)]
    folders = {make: make(lines, tmp_path / make.__name__, 420) for make in (byte_level, metaspace, word_piece)}
    vocabularies = {make: open_vocabulary(folder) for make, folder in folders.items()}
    spellings = {byte_level: BYTES, metaspace: MARKED, word_piece: WORD_PIECE}
    for theirs, its_spelling in spellings.items():
        for ours, spelling in spellings.items():
            mine, its = vocabularies[ours], vocabularies[theirs]
            rows = rows_by_piece(its, mine)
            assert len(rows) == mine.size
            shared = 0
            for i, old in enumerate(rows.same()):
                if old >= 0 and i not in mine.specials.never_text and i != mine.specials.unknown:
                    (name,), (other,) = mine.pieces([i]), its.pieces([old])
                    shared += 1
                    assert name == other if ours is theirs else spelling.text(name) == its_spelling.text(other)
            assert shared > 30
            for role in ("begin", "end", "pad", "mask"):
                assert rows.same()[getattr(mine.specials, role)] == getattr(its.specials, role)
            counts = np.diff(rows.offsets)
            assert (counts[rows.is_same] == 1).all()
            assert not set(rows.ids[~np.isin(np.repeat(np.arange(len(rows)), counts), np.flatnonzero(rows.is_same))]) & {
                its.specials.mask,
                its.specials.pad,
            }


def test_files_that_contradict_the_tokenizer_are_refused(weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights, tmp_path / "bad"))
    own = Vocabulary(folder / "sentencepiece.bpe.model")
    other = shuffled(own.path, tmp_path / "other.model")
    lines = own.pieces(range(own.size))
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert "66 are copied" in vocabulary_of(folder, other, sha256_of(other))[0]
    moved = [*lines[:5], *lines[6:-1], lines[5], lines[-1]]
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in moved), encoding="utf-8")
    with pytest.raises(InputError, match=r"vocab\.txt: \d+ of 61 ids mean other pieces"):
        vocabulary_of(folder, other, sha256_of(other))
    own.path.unlink()
    with pytest.raises(InputError, match=r"vocab\.txt: \d+ of 61 ids mean other pieces"):
        vocabulary_of(folder, other, sha256_of(other))
