"""A Hugging Face encoder with another vocabulary: pieces learned for a language, pieces that no corpus uses taken out.

`adapt_vocabulary` reads a folder and writes another, of the same class:

1. the tokenizer's files, changed by one rule (ernie_m.corpus.new_vocabulary);
2. tensors with a row a piece (word embedding, output matrix, output bias): kept rows bit for bit, new ones the mean of the
   rows of the old pieces that they stand for; all other tensors as they are;
3. config.json with the new size and special ids; files of sentence-transformers and licences as they are;
4. vocabulary.json, which says what was changed and measured.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import folder_written_atomically, write_json
from ernie_m.base.run_files import CONFIG_FILE as RUN_CONFIG_FILE
from ernie_m.base.table import table
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.editable import RowSources
from ernie_m.corpus.joins import EXTEND
from ernie_m.corpus.new_vocabulary import HEADER, Measure, batches, kept_pieces, learned, measured
from ernie_m.corpus.texts import Text
from ernie_m.corpus.tokenizer_files import TOKENIZER_FILE, TOKENIZER_JSON
from ernie_m.interop.layout import ERNIE_M
from ernie_m.interop.new_rows import with_rows
from ernie_m.interop.opening import check_foreign_code, check_kind, configuration_of
from ernie_m.interop.piece_rows import names_of_rows
from ernie_m.interop.vocabulary_files import TokenizerFolder, read_tokenizer, write_changed
from ernie_m.interop.weight_files import (
    CONFIG_FILE,
    SAFETENSORS,
    SENTENCE_FILES,
    WeightFiles,
    folder_of,
    module_folders,
    read_config,
)

REPORT_FILE = "vocabulary.json"
COPIED = (*SENTENCE_FILES, "LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class VocabularyReport:
    """What was changed in a vocabulary, and measured."""

    source: str
    to: str
    sizes: tuple[int, int]
    """Tokens before and after, special ones included."""
    parameters: tuple[int, int]
    new: tuple[str, ...]
    """New pieces, best first."""
    asked: int
    """How many new pieces were asked for."""
    taken_out: int
    slow_differs: int | None
    """Lines of the texts for which sentencepiece.bpe.model and tokenizer.json give other ids; None where one is missing."""
    measures: tuple[Measure, ...]
    unchanged: tuple[str, ...]
    """Names of the texts that no new piece may change."""
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the console."""
        (size, new_size), (parameters, left) = self.sizes, self.parameters
        lines = [f"vocabulary: {size:,} -> {new_size:,} tokens: {self.taken_out:,} taken out, {len(self.new):,} new"]
        lines.append(f"parameters: {parameters:,} -> {left:,} ({100 * left / parameters:.1f} %)")
        if len(self.new) < self.asked:
            lines.append(f"  {self.asked:,} new pieces were asked for; no more stand twice in the text and in no old text")
        if self.asked:
            kept = ", ".join(self.unchanged) or "none was given; what becomes of old languages is not known"
            lines.append(f"  no new piece stands in the old text: {kept}")
        if self.slow_differs is not None:
            lines.append(f"  {TOKENIZER_FILE} and {TOKENIZER_JSON} give other ids for {self.slow_differs:,} lines")
        return [*lines, *(f"  {note}" for note in self.notes), self.table()]

    def table(self) -> str:
        """Tokens a word before and after, and changed lines, a row a text."""
        return table(HEADER, [measure.row() for measure in self.measures])

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def adapt_vocabulary(
    source: str | Path,
    to: Path,
    *,
    trim: Sequence[Text] = (),
    extend: int = 0,
    text: Sequence[Text] = (),
    unchanged: Sequence[Text] | None = None,
) -> VocabularyReport:
    """Write the encoder `source` (a folder or hub id) into the new folder `to`, with another vocabulary.

    trim: the corpora whose pieces are kept; () takes nothing out.
    extend: how many pieces to learn, at most; text: what they are learned from.
    unchanged: text of old languages; a piece that would be in one of its lines is not learned. None: the texts of `trim`
        whose names are not in `text`.

    The pieces that `text` and `unchanged` use are kept too. Raises InputError for a model or tokenizer that cannot be
    changed, for texts out of which nothing can be learned, and for a folder that exists.
    """
    _check(to, trim, extend, text, unchanged)
    folder = folder_of(str(source))
    if (folder / RUN_CONFIG_FILE).is_file():
        raise InputError(f"{source}: a run of ours; expected a Hugging Face folder: export it with `ernie-m export`")
    content = read_config(folder)
    config = _configuration(str(source), folder, content)
    files, tokenizer = WeightFiles(folder), read_tokenizer(folder)
    of_pieces = names_of_rows(config, files.shapes, str(folder))
    _check_rows(tokenizer, files, of_pieces)
    if unchanged is None:
        unchanged = [it for it in trim if it.name not in {new.name for new in text}]
    new = learned(tokenizer.first, text, extend, unchanged) if extend else []
    kept = {*tokenizer.first.names}
    texts = [*{it.name: it for it in (*text, *trim, *unchanged)}.values()]
    if trim:
        kept = kept_pieces(tokenizer.first, texts, new, _special_ids(content))
    with folder_written_atomically(to) as aside:
        rows, new_ids = write_changed(tokenizer, kept, new, aside)
        shapes = _write_weights(files, of_pieces, rows, aside)
        write_json(aside / CONFIG_FILE, _new_config(content, rows, new_ids))
        _copy_others(folder, aside)
        first = aside / tokenizer.first.path.name
        old_size = len(tokenizer.first.names)
        report = VocabularyReport(
            source=str(source),
            to=str(to),
            sizes=(old_size, len(rows)),
            parameters=(sum(map(math.prod, files.shapes.values())), sum(map(math.prod, shapes.values()))),
            new=tuple(dict.fromkeys(piece.name for piece in new)),
            asked=extend,
            taken_out=old_size - int(rows.is_same.sum()),
            slow_differs=_slow_differs(aside, texts),
            measures=tuple(measured(tokenizer.vocabulary, open_vocabulary(first), rows, texts)),
            unchanged=tuple(it.name for it in unchanged) if extend else (),
            notes=tokenizer.notes,
        )
        write_json(aside / REPORT_FILE, report.to_json())
    return report


def _check(to: Path, trim: Sequence[Text], extend: int, text: Sequence[Text], unchanged: Sequence[Text] | None) -> None:
    if not EXTEND.holds(extend):
        raise InputError(f"--extend {extend}: expected {EXTEND.expected(is_whole=True)}")
    if extend and not text:
        raise InputError(f"--extend {extend}: no text to learn pieces from; give some with --text")
    if text and not extend:
        raise InputError("--text: how many pieces to learn from it? give --extend N, or leave --text out")
    if unchanged is not None and not extend:
        raise InputError("--unchanged: no piece is learned without --extend; to keep the pieces of text, give it as --trim")
    if not extend and not trim:
        raise InputError("nothing to do: expected --trim FILES, or --extend N --text FILES, or both")
    if os.path.lexists(to):
        raise InputError(f"{to}: exists and stays as it is; give a new folder with --to")


def _configuration(name: str, folder: Path, content: dict[str, Any]) -> Any:
    check_foreign_code(name, folder, content, trust_remote_code=None)
    if content.get("model_type") == ERNIE_M.model_type:
        raise InputError(f"{name}: model_type {ERNIE_M.model_type}, which transformers 5 has not; export it as xlm-roberta")
    config, _ = configuration_of(name, folder, content, trust_remote_code=False)
    check_kind(f"{name}/{CONFIG_FILE}", config, is_known=True)
    return config


def _check_rows(tokenizer: TokenizerFolder, files: WeightFiles, of_pieces: Sequence[str]) -> None:
    highest, least = max(tokenizer.first.names), min((files.shapes[name][0], name) for name in of_pieces)
    if highest >= least[0]:
        raise InputError(
            f"{files.folder}: its tokenizer has ids up to {highest:,}, {least[1]} {least[0]:,} rows; expected the tokenizer "
            "of these weights"
        )


def _special_ids(content: Mapping[str, Any]) -> set[int]:
    """The ids that config.json names: pad_token_id and its like."""
    values = [value for key, value in content.items() if key.endswith("_token_id")]
    return {i for value in values for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}


def _new_config(content: Mapping[str, Any], rows: RowSources, new_ids: Mapping[int, int]) -> dict[str, Any]:
    changed: dict[str, Any] = {"vocab_size": len(rows)}
    for key, value in content.items():
        if key.endswith("_token_id") and isinstance(value, int):
            changed[key] = new_ids.get(value, value)
        elif key.endswith("_token_id") and isinstance(value, list):
            changed[key] = [new_ids.get(i, i) for i in value]
    return {**content, **changed}


def _write_weights(files: WeightFiles, of_pieces: Sequence[str], rows: RowSources, to: Path) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, Tensor] = {}
    progress = Progress("rows of pieces", len(files.shapes), "tensors")
    for name in files.shapes:
        tensor = files.read(name)
        if name in of_pieces and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{files.folder}: {name} holds numbers that are not finite; take another checkpoint")
        tensors[name] = with_rows(tensor, rows) if name in of_pieces else tensor.clone().contiguous()
        progress.advance(1)
    progress.close()
    save_file(tensors, to / SAFETENSORS, metadata={"format": "pt"})
    (to / SAFETENSORS).chmod(0o666 & ~_umask())  # safetensors makes them the owner's alone
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _copy_others(folder: Path, to: Path) -> None:
    """What sentence-transformers reads, and licences. Weights in other formats would be of the old vocabulary."""
    for pattern in COPIED:
        for path in folder.glob(pattern):
            shutil.copyfile(path, to / path.name)
    for name in module_folders(folder):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, to / name)


def _slow_differs(folder: Path, texts: Sequence[Text]) -> int | None:
    """Lines for which the folder's two files give other ids; None where there is one."""
    paths = [folder / name for name in (TOKENIZER_FILE, TOKENIZER_JSON)]
    if not all(path.is_file() for path in paths):
        return None
    slow, fast = map(open_vocabulary, paths)
    num = 0
    for batch in batches(texts):
        first, second = slow.encode_batch(batch), fast.encode_batch(batch)
        for i in range(len(batch)):
            mine, its = (ids.values[ids.offsets[i] : ids.offsets[i + 1]] for ids in (first, second))
            num += not np.array_equal(mine, its)
    return num
