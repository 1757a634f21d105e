"""THE table of objectives: each is a layout, a corruption, a reads table and a loss over its predicted positions.

How an example becomes a document (subscript = position id; docs/objectives.md draws them all):

1. Sentences are laid side by side with running positions: <s> x </s>, and for pairs </s> y </s> behind it.
2. The corruption picks the predicted tokens: "replace" puts masks in their place (80/10/10), "insert" leaves them and
   appends one <mask> for each, sharing its original's position and language, "next_token" predicts every next token.
3. Pseudo-parallel objectives append placeholders in a target language at the next positions; stage 1 fills them.
4. The reads table says which group reads which; `check_no_leak` proves that no mask learns of its own answer, over any
   number of layers, when the table is built.

A new objective is one entry here, its drawn reads table and one oracle test.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ernie_m.attention_rule import ReadsTable, check_no_leak, group_bits
from ernie_m.batch import NO_HORIZON, Document, Example
from ernie_m.config import Section, section
from ernie_m.corruption import choose_masked, expected_masked, num_masked, replace_80_10_10
from ernie_m.special_tokens import BOS_ID, EOS_ID, FIRST_POSITION_ID, NO_LANGUAGE, mask_id

REPLACE, INSERT, NEXT_TOKEN = "replace", "insert", "next_token"
PSEUDO_GROUP = 1  # pseudo-parallel documents: group 0 is the sentence, group 1 its placeholders


@section
class CorruptionConfig(Section):
    """How much is predicted and generated."""

    mask_rate: float = 0.15
    """Share of the tokens that are predicted (not published for ERNIE-M; BERT's and XLM-R's)."""
    pseudo_token_share: float = 0.10
    """BTMLM: pseudo tokens per token of the sentence; the paper compares 0.05, 0.10, 0.15 and 0.20."""

    def check(self) -> None:
        self.require(0 < self.mask_rate < 1, "mask_rate", "a share between 0 and 1, e.g. 0.15")
        self.require(0.05 <= self.pseudo_token_share <= 0.20, "pseudo_token_share", "a share from 0.05 to 0.20")


@dataclass(frozen=True)
class Objective:
    """One row of the table. `groups` in bit order; `reads` and `generation_reads` map each to the groups it reads."""

    name: str
    num_sentences: int
    corruption: str
    groups: tuple[str, ...]
    reads: ReadsTable
    must_not_reach: tuple[tuple[str, str], ...] = ()
    generation_reads: ReadsTable | None = None
    generation_must_not_reach: tuple[tuple[str, str], ...] = ()
    merges_lines: bool = False
    _bits: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_no_leak(self.name, self.reads, self.must_not_reach)
        self._bits["reads"] = _bit_array(self.groups, self.reads)
        if self.generation_reads is not None:
            check_no_leak(f"{self.name} stage 1", self.generation_reads, self.generation_must_not_reach)
            self._bits["generation"] = _bit_array(self.groups, self.generation_reads)

    @property
    def is_pseudo_parallel(self) -> bool:
        """Whether placeholders are appended and filled by a no-grad forward before the loss (BTMLM)."""
        return self.generation_reads is not None

    @property
    def reads_by_group(self) -> np.ndarray:
        return self._bits["reads"]

    @property
    def generation_reads_by_group(self) -> np.ndarray:
        return self._bits["generation"]

    def length(self, corruption: CorruptionConfig, *num_tokens: Any) -> Any:
        """Positions that an example of these sentence lengths (ints or arrays) takes: exact, before anything is drawn."""
        return self._length(corruption, num_tokens, num_masked)

    def expected_length(self, corruption: CorruptionConfig, *mean_tokens: Any) -> Any:
        """Mean positions of examples whose sentences have these mean lengths (numbers or arrays)."""
        return self._length(corruption, mean_tokens, expected_masked)

    def _length(self, corruption: CorruptionConfig, num_tokens: Sequence[Any], masked: Callable[[Any, float], Any]) -> Any:
        total = sum(num_tokens) + 2 * len(num_tokens)
        if self.corruption == INSERT:
            total = total + sum(masked(n, corruption.mask_rate) for n in num_tokens)
        if self.is_pseudo_parallel:
            total = total + masked(num_tokens[0], corruption.pseudo_token_share)
        return total

    def fitted(self, corruption: CorruptionConfig, num_tokens: Sequence[int], capacity: int) -> tuple[int, ...] | None:
        """The longest cut of these sentence lengths, in proportion, that fits; None when less than 1 token each does."""
        total = sum(num_tokens)

        def cut(share: int) -> tuple[int, ...]:
            return tuple(-(-n * share // total) for n in num_tokens)  # rounded up: no sentence vanishes

        if int(self.length(corruption, *num_tokens)) <= capacity:
            return tuple(num_tokens) if min(num_tokens) > 0 else None
        fits = bisect.bisect_right(range(total), capacity, key=lambda share: int(self.length(corruption, *cut(share))))
        return cut(fits - 1) if fits > 1 and min(num_tokens) > 0 else None

    def lay_out(
        self,
        example: Example,
        corruption: CorruptionConfig,
        vocab_size: int,
        rng: np.random.Generator,
        target_language: int = NO_LANGUAGE,
    ) -> Document:
        """Turn an example into a document; all draws come from `rng`. Placeholders carry `target_language`."""
        assert len(example.sentences) == self.num_sentences
        original, language, group, content = _side_by_side(example)
        position = np.arange(FIRST_POSITION_ID, FIRST_POSITION_ID + len(original), dtype=np.int32)
        if self.corruption == NEXT_TOKEN:
            predicted, labels, shown = np.arange(len(original) - 1, dtype=np.int32), original[1:], original
        else:
            masked = np.concatenate([c[choose_masked(rng, len(c), corruption.mask_rate)] for c in content]).astype(np.int32)
            predicted, labels, shown = masked, original[masked], original.copy()
            if self.corruption == REPLACE:
                shown[masked] = replace_80_10_10(rng, labels, vocab_size)
            else:
                predicted = np.arange(len(original), len(original) + len(masked), dtype=np.int32)
                shown = np.append(shown, np.full_like(masked, mask_id(vocab_size)))
                position, language = np.append(position, position[masked]), np.append(language, language[masked])
                group = np.append(group, group[masked] + self.num_sentences)
        num_placeholders = 0
        if self.is_pseudo_parallel:
            num_placeholders = int(num_masked(len(example.sentences[0]), corruption.pseudo_token_share))
            slots = np.full(num_placeholders, mask_id(vocab_size), dtype=np.int32)
            original, shown = np.append(original, slots), np.append(shown, slots)
            position = np.append(position, position[-1] + 1 + np.arange(num_placeholders, dtype=np.int32))
            language = np.append(language, np.full_like(slots, target_language))
            group = np.append(group, np.full_like(slots, PSEUDO_GROUP))
        index = np.arange(len(shown), dtype=np.int32)
        is_causal = self.corruption == NEXT_TOKEN
        generation_reads = self.generation_reads_by_group if self.is_pseudo_parallel else self.reads_by_group
        return Document(
            input_ids=shown,
            position_ids=position,
            language=language,
            group=group,
            reads=self.reads_by_group[group],
            horizon=index if is_causal else np.full_like(index, NO_HORIZON),
            predicted=predicted,
            labels=labels,
            generation_ids=original if self.is_pseudo_parallel else shown,
            generation_reads=generation_reads[group],
            placeholders=index[len(index) - num_placeholders :],
        )


def _bit_array(groups: tuple[str, ...], table: ReadsTable) -> np.ndarray:
    bits = group_bits(groups, table)
    return np.array([bits[group] for group in groups], dtype=np.int32)


def _side_by_side(example: Example) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Ids, language and group of <s> x </s> [</s> y </s>], and the content positions of each sentence."""
    ids, language, group, content, start = [], [], [], [], 0
    for number, (sentence, language_id) in enumerate(zip(example.sentences, example.languages, strict=True)):
        ids.append(np.concatenate([[BOS_ID if number == 0 else EOS_ID], sentence, [EOS_ID]]).astype(np.int32))
        language.append(np.full(len(ids[-1]), language_id, dtype=np.int32))
        group.append(np.full(len(ids[-1]), number, dtype=np.int32))
        content.append(np.arange(start + 1, start + 1 + len(sentence), dtype=np.int32))
        start += len(ids[-1])
    return np.concatenate(ids), np.concatenate(language), np.concatenate(group), content


MMLM = Objective("MMLM", 1, REPLACE, groups=("X",), reads={"X": "X"}, merges_lines=True)

TLM = Objective("TLM", 2, REPLACE, groups=("X", "Y"), reads={"X": "X Y", "Y": "X Y"})

# Figure 1 and the worked example p(x2 | M2, y4, y5, y6, y7) of the paper: docs/decisions/0002.
CAMLM = Objective(
    "CAMLM",
    2,
    INSERT,
    groups=("X", "Y", "MX", "MY"),
    reads={"X": "X", "Y": "Y", "MX": "Y MX", "MY": "X MY"},
    must_not_reach=(("MX", "X"), ("MY", "Y"), ("X", "Y"), ("Y", "X")),
)

BTMLM = Objective(
    "BTMLM",
    1,
    REPLACE,
    groups=("X", "P"),
    reads={"X": "X P", "P": "X P"},
    generation_reads={"X": "X", "P": "X P"},
    generation_must_not_reach=(("X", "P"),),
)

CLM = Objective("CLM", 1, NEXT_TOKEN, groups=("X",), reads={"X": "X"}, merges_lines=True)

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (MMLM, TLM, CAMLM, BTMLM, CLM)}
OBJECTIVE_INDEX: dict[str, int] = {name: index for index, name in enumerate(OBJECTIVES)}
