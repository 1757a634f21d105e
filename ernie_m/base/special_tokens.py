"""Special tokens: what a vocabulary says of them (`Specials`), and XLM-R's (fairseq's) layout, four in front, the mask last.

An id in this project is a *model id*. A SentencePiece model numbers its pieces <unk>=0 <s>=1 </s>=2 first=3;
fairseq put <s> <pad> </s> <unk> in front, so a real piece's model id is its SentencePiece id + 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from ernie_m.base.console import InputError

BOS_ID = 0  # <s>, also [CLS]
PAD_ID = 1
EOS_ID = 2  # </s>, also [SEP]
UNK_ID = 3
FAIRSEQ_OFFSET = 1
FIRST_PIECE_ID = 4

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""Names of the pieces for single bytes, in tokenizers that write an unknown character as its bytes."""

XLM_R_VOCAB_SIZE = 250_002
FIRST_POSITION_ID = 2  # position ids start after the pad id, as in RoBERTa
NO_LANGUAGE = 0  # language id of a token that carries none


ROLES = ("begin", "end", "begin_second", "pad", "unknown", "mask")
"""Fields of Specials that name a token."""


def mask_id(vocab_size: int) -> int:
    """Id of <mask>: the last one of the vocabulary."""
    return vocab_size - 1


def vocab_size_of(num_pieces: int) -> int:
    """Model vocabulary of a SentencePiece model of `num_pieces` (its <unk> <s> </s> included): + <pad> + <mask>."""
    return num_pieces + 2


@dataclass(frozen=True)
class Specials:
    """What a vocabulary says of its special tokens, and of what may take the place of others; all are model ids.

    A row holds begin, a sentence, end; of a pair, the second sentence has `begin_second` in front, if any, and end behind:
    <s> x </s> </s> y </s> in XLM-R, [CLS] x [SEP] y [SEP] in BERT.
    """

    begin: int
    """Stands in front of a row: <s>, [CLS]."""
    end: int
    """Stands behind each sentence: </s>, [SEP]."""
    begin_second: int | None
    """Stands in front of a pair's second sentence; None for nothing."""
    pad: int
    unknown: int | None
    """None where nothing is unknown: byte-level BPE."""
    mask: int | None
    """None where there is none: then objectives that put masks into a text are refused (ernie_m.rows.layout)."""
    first_position: int
    """Position id of the first token: 2 in XLM-R, 0 in BERT."""
    vocab_size: int
    """The highest id + 1."""
    replaceable: tuple[tuple[int, int], ...]
    """Which ids may replace a masked token, as ranges [first, last), ascending: pieces, neither special nor unused."""

    @staticmethod
    def xlm_r(vocab_size: int) -> Specials:
        """XLM-R's layout, the only one that folders of format 2 have."""
        mask = mask_id(vocab_size)
        pieces = ((FIRST_PIECE_ID, mask),)
        return Specials(BOS_ID, EOS_ID, EOS_ID, PAD_ID, UNK_ID, mask, FIRST_POSITION_ID, vocab_size, pieces)

    @property
    def never_text(self) -> tuple[int, ...]:
        """The ids that no text holds, ascending; <unk> is not among them."""
        ids = {self.begin, self.end, self.pad, self.mask, self.begin_second} - {None, self.unknown}
        return tuple(sorted(i for i in ids if i is not None))

    def are_text(self, ids: np.ndarray) -> np.ndarray:
        """Whether each id may stand in a text: bool, of the shape of `ids`."""
        found = (ids >= 0) & (ids < self.vocab_size)
        for special in self.never_text:
            found &= ids != special
        return found

    @property
    def text_shown(self) -> str:
        """Which ids `are_text`, for a message: '3 to 250000' in XLM-R."""
        borders = [-1, *self.never_text, self.vocab_size]
        ranges = [(before + 1, after - 1) for before, after in pairwise(borders) if after - before > 1]
        return ", ".join(f"{first} to {last}" if last > first else f"{first}" for first, last in ranges)

    @property
    def num_replaceable(self) -> int:
        """How many ids may replace a masked token."""
        return sum(last - first for first, last in self.replaceable)

    def replacements(self, numbers: np.ndarray) -> np.ndarray:
        """The replaceable id of each number from 0 to num_replaceable - 1: int32, ascending with the number."""
        firsts = np.array([first for first, _ in self.replaceable], np.int64)
        sizes = np.array([last - first for first, last in self.replaceable], np.int64)
        ends = np.cumsum(sizes)
        of_number = np.searchsorted(ends, numbers, side="right")
        return (numbers - (ends - sizes)[of_number] + firsts[of_number]).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {**asdict(self), "replaceable": [list(ids) for ids in self.replaceable]}

    @staticmethod
    def from_json(content: Any, where: str) -> Specials:
        """What `to_json` gave; raises InputError, in front of it `where`, that names each key that is wrong."""
        if not isinstance(content, dict):
            raise InputError(f"{where}: {type(content).__name__}, expected a mapping; rebuild the data")
        names = [key.name for key in fields(Specials)]
        faults = [f"{name} is missing" for name in names if name not in content]
        faults += [f"{name} is no key of it" for name in content if name not in names]
        faults = faults or [*_faults(content)]
        if faults:
            raise InputError(f"{where}: {'; '.join(faults)}; rebuild the data")
        return Specials(**{**content, "replaceable": tuple((first, last) for first, last in content["replaceable"])})


def _faults(content: dict[str, Any]) -> Iterator[str]:
    size = content["vocab_size"]
    if not _is_number(size) or size < 1:
        yield f"vocab_size is {size!r}, expected a number from 1"
        return
    if not _is_number(content["first_position"]) or content["first_position"] < 0:
        yield f"first_position is {content['first_position']!r}, expected a number from 0"
    for name in ROLES:
        value, may_be_none = content[name], name in ("begin_second", "unknown", "mask")
        if not (value is None and may_be_none) and not (_is_number(value) and 0 <= value < size):
            yield f"{name} is {value!r}, expected {'null or ' * may_be_none}an id from 0 to {size - 1}"
    for name in ("pad", "mask"):
        others = [other for other in ("begin", "end", "pad", "unknown") if other != name]
        if same := [other for other in others if content[name] is not None and content[other] == content[name]]:
            yield f"{name} is {content[name]!r}, which is {same[0]} too"
    before = 0
    ranges = content["replaceable"]
    for ids in ranges if isinstance(ranges, list) and ranges else [ranges]:
        is_range = isinstance(ids, list) and len(ids) == 2 and all(map(_is_number, ids))
        if not is_range or not before <= ids[0] < ids[1] <= size:
            yield f"replaceable has {ids!r}, expected ranges [first, last) of ids, ascending, below {size}"
            return
        before = ids[1]
    if found := [name for name in ("begin", "end", "pad", "unknown", "mask") if _is_within(content[name], ranges)]:
        yield f"replaceable holds {content[found[0]]}, which is {found[0]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_within(value: Any, ranges: list[list[int]]) -> bool:
    return _is_number(value) and any(first <= value < last for first, last in ranges)


def ranges_of(ids: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The ids as ranges [first, last), ascending."""
    ranges: list[tuple[int, int]] = []
    for i in sorted(set(ids)):
        if ranges and ranges[-1][1] == i:
            ranges[-1] = (ranges[-1][0], i + 1)
        else:
            ranges.append((i, i + 1))
    return tuple(ranges)
