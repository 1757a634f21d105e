"""What one side of a model that translates starts from: all that has a place there, or words alone.

`init_encoder` and `init_decoder` name what `init_from` does (ernie_m.interop.source), or `embeddings:` and

- a file of word vectors as word2vec and FastText write them: "piece 0.1 -0.2 ...", in front perhaps a line with the two
  sizes. A piece takes the vector of its own name, or else that of the word which it is; others stay as the seed draws them.
- a Hugging Face folder or a run, whose word embedding is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import CONFIG_FILE as RUN_CONFIG_FILE
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.joins import SPACE
from ernie_m.corpus.spelling import spelling_at
from ernie_m.interop.other_vocabulary import vocabulary_of
from ernie_m.interop.source import HEADS, SIDES, one_side, open_source
from ernie_m.interop.start_weights import Source, Target
from ernie_m.interop.weight_files import WeightFiles, folder_of, read_config
from ernie_m.models.shape import SHARED
from ernie_m.models.translation import TranslationModel

WORDS_ONLY = "embeddings:"
WORDS = "embeddings.word.weight"
HEADER_FIELDS = 2


def parameters_of_side(model: TranslationModel, side: str) -> dict[str, Tensor]:
    """Parameters of the encoder, or of the decoder and the head, under the names that an encoder alone has for them."""
    of_side: dict[str, Tensor] = {
        name.removeprefix(f"{side}."): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)  # shared embeddings are both sides'
        if name.startswith(f"{side}.")
    }
    heads = {name: parameter for name, parameter in model.named_parameters() if name.startswith(HEADS)}
    return of_side if side == "encoder" else of_side | heads


def check_shared(starts: Mapping[str, str], decoder: str | None) -> None:
    """Raise InputError for two sides with one embedding that would start from two."""
    if decoder == SHARED and len({starts[key] for key in SIDES if key in starts}) > 1:
        raise InputError(
            "init_decoder: another start than init_encoder's, and with model.decoder=shared both have one embedding; name "
            "the same, or set model.decoder=separate"
        )


def open_side(start: str, target: Target, key: str) -> Source | WordVectors:
    """What the side that `key` names starts from. Raises InputError when it is unknown or broken, or does not fit."""
    if not start.startswith(WORDS_ONLY):
        return open_source(start, target, key)
    try:
        width, named = one_side(target.config).hidden_size, start.removeprefix(WORDS_ONLY)
        path = Path(named).expanduser()
        return WordVectors.read(path, target, width) if path.is_file() else _words_of_model(named, target, width, key)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _words_of_model(named: str, target: Target, width: int, key: str) -> Source:
    """The word embedding of a run or of a model of transformers."""
    path, kind = folder_of(named), "another model's word embedding"
    if (path / RUN_CONFIG_FILE).is_file():
        source = open_source(named, target, key)
        return Source(source.path, kind, source.vocabulary, source.tensors, {WORDS: source.names[WORDS]}, rows=source.rows)
    files, vocabulary = WeightFiles(path), vocabulary_of(path, target.tokenizer, target.tokenizer_sha256)
    name = _name_of_words(path, files)
    size, its_width = files.shapes[name]
    told, rows = vocabulary
    config = one_side(target.config)
    if its_width != width or (rows is None and size != config.vocab):
        raise InputError(
            f"{path}: {name} has {size:,} words of width {its_width:,}; expected {config.vocab:,} of width {width:,}, the "
            "recipe's model.hidden_size"
        )
    return Source(path, kind, told, files, {WORDS: (name,)}, rows=rows, key=key)


def _name_of_words(path: Path, files: WeightFiles) -> str:
    """The stored tensor that is the word embedding, as the model's class says."""
    from transformers import AutoModel  # seconds of every rank's start, for a run that names none

    from ernie_m.interop.opening import check_foreign_code, configuration_of, one_line, skeleton_of

    content = read_config(path)
    check_foreign_code(str(path), path, content, trust_remote_code=None)
    config, _ = configuration_of(str(path), path, content, trust_remote_code=False)
    with one_line(f"{path}: no model that transformers knows"):
        skeleton = skeleton_of(AutoModel, config, str(path), trust_remote_code=False)
        words = skeleton.get_input_embeddings().weight
    (own,) = [name for name, parameter in skeleton.named_parameters() if parameter is words]
    found = [name for name in files.shapes if name == own or name.endswith(f".{own}")]
    if not found:
        raise InputError(f"{path}: {own}, its word embedding, is not among its {len(files.shapes)} tensors")
    return found[0]


@dataclass(frozen=True)
class WordVectors:
    """Word vectors of a file, as a start: those of our pieces that it has."""

    path: Path
    vocabulary: str
    ids: np.ndarray
    """Our pieces that have a vector, int64 [K]."""
    vectors_KD: np.ndarray
    kind: str = "word vectors"
    unused: tuple[str, ...] = ()

    @property
    def tensors(self) -> WordVectors:
        return self

    @staticmethod
    def read(path: Path, target: Target, width: int) -> WordVectors:
        """The vectors of the target's pieces. Raises InputError for a line that is none, and if no piece has one."""
        vocabulary = open_vocabulary(target.tokenizer)
        wanted = _names_in_file(vocabulary)
        found: dict[int, tuple[int, np.ndarray]] = {}  # our id -> how well the name fits, its vector
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                word, _, numbers = line.rstrip(b" \r\n").partition(b" ")
                if number == 1 and _is_header(word, numbers):
                    continue
                for ours, fit in wanted.get(word.decode("utf-8", "replace"), ()):
                    if ours not in found or fit < found[ours][0]:
                        found[ours] = fit, _vector(numbers, width, f"{path}, line {number}")
        if not found:
            raise InputError(
                f"{path}: has a vector for none of the data's {vocabulary.size:,} pieces; expected `piece 0.1 ...`"
            )
        ids = np.array(sorted(found), np.int64)
        told = f"{len(ids):,} of the data's {vocabulary.size:,} pieces have a vector there, others are drawn from the seed"
        return WordVectors(path, told, ids, np.stack([found[i][1] for i in ids.tolist()]))

    def fill_parameters(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """As Source.fill_parameters."""
        with torch.no_grad():
            parameters[WORDS][torch.from_numpy(self.ids)] = torch.from_numpy(self.vectors_KD)
        return [name for name in parameters if name != WORDS]

    def sha256(self, on_progress: Callable[[], None] = lambda: None) -> str:
        return sha256_of(self.path, on_progress=on_progress)

    def num_bytes(self) -> int:
        return self.path.stat().st_size


def _names_in_file(vocabulary: AnyVocabulary) -> dict[str, list[tuple[int, int]]]:
    """Name in a file -> pieces with it, and how well it fits: 0 its own, 1 the word that the piece is."""
    spelling = spelling_at(vocabulary.path)
    names: dict[str, list[tuple[int, int]]] = {}
    for i, piece in enumerate(vocabulary.pieces(range(vocabulary.size))):
        names.setdefault(piece, []).append((i, 0))
        text = spelling.text(piece) or ""
        if text.startswith(SPACE) and len(text) > 1:
            names.setdefault(text[1:], []).append((i, 1))
    return names


def _is_header(word: bytes, numbers: bytes) -> bool:
    """Whether the first line says how many vectors there are, and their width."""
    return word.isdigit() and numbers.strip().isdigit() and len(numbers.split()) == HEADER_FIELDS - 1


def _vector(numbers: bytes, width: int, where: str) -> np.ndarray:
    fields: Sequence[bytes] = numbers.split()
    if len(fields) != width:
        raise InputError(f"{where}: {len(fields)} numbers, expected {width}, the recipe's model.hidden_size")
    try:
        vector = np.array(fields, np.float32)
    except ValueError:
        raise InputError(f"{where}: not a number among {numbers[:40].decode('utf-8', 'replace')!r} ...") from None
    if not np.isfinite(vector).all():
        raise InputError(f"{where}: a number that is not finite; expected a vector")
    return vector
