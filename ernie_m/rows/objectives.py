"""THE table of objectives: each is a layout, a corruption, a reads table and a loss over its predicted positions.

How an example becomes a document (subscript = position id; docs/objectives.md draws them all):

1. Sentences are laid side by side with running positions: <s> x </s>, and for pairs </s> y </s> behind it.
2. The corruption picks the predicted tokens: "replace" puts masks in their place (80/10/10), "insert" leaves them and
   appends one <mask> for each, sharing its original's position and language, "next_token" predicts every next token.
3. Pseudo-parallel objectives append placeholders in a target language at the next positions; stage 1 fills them.
4. The reads table says which group reads which. What must not reach whom follows from the corruption, and an entry in
   which a mask would learn of its own answer, over any number of layers, is refused when it is built.

A new objective is one entry here, its drawn reads table and one oracle test.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.config import Section, section
from ernie_m.base.ranges import Range
from ernie_m.base.sampling import mix, numbers_of
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, FIRST_POSITION_ID, NO_LANGUAGE, mask_id
from ernie_m.rows.attention_rule import ReadsTable, check_no_leak, group_bits
from ernie_m.rows.batch import NO_HORIZON, Document, Documents, Example, Examples
from ernie_m.rows.corruption import choose_masked, expected_masked, num_masked, replace_80_10_10

REPLACE, INSERT, NEXT_TOKEN = "replace", "insert", "next_token"
CORRUPTIONS = (REPLACE, INSERT, NEXT_TOKEN)


@section
class CorruptionConfig(Section):
    """How much is predicted and generated."""

    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the tokens that are predicted (not published for ERNIE-M; BERT's and XLM-R's)."""
    pseudo_token_share: Annotated[float, Range(least=0.05, most=0.20)] = 0.10
    """BTMLM: pseudo tokens per token of the sentence; the paper compares 0.05, 0.10, 0.15 and 0.20."""


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    `groups` in bit order: each sentence; then, of an "insert", the masks of each sentence, or the placeholders. `reads` and
    `generation_reads` map each to the groups it reads. `must_not_reach` and `generation_must_not_reach` promise more than
    follows from the corruption: (reader, forbidden) pairs. Raises ValueError for an entry that is none, or that leaks.
    """

    name: str
    num_sentences: int
    corruption: str
    groups: tuple[str, ...]
    reads: ReadsTable
    must_not_reach: tuple[tuple[str, str], ...] = ()
    generation_reads: ReadsTable | None = None
    generation_must_not_reach: tuple[tuple[str, str], ...] = ()
    merges_lines: bool = False
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ValueError(f"{self.name}: {fault}")
        sentences, added = self.groups[: self.num_sentences], self.groups[self.num_sentences :]
        # Inserted masks stand beside their sentence, uncorrupted. Masks that replace tokens leave no answer to be read, and
        # next tokens lie behind the horizon of every token, whatever it reads.
        follows = tuple(zip(added, sentences, strict=True)) if self.corruption == INSERT else ()
        check_no_leak(self.name, self.reads, (*follows, *self.must_not_reach))
        self._arrays["reads"] = _bit_array(self.groups, self.reads)
        self._arrays["groups"] = np.arange(len(self.groups), dtype=np.int32)
        if self.generation_reads is not None:
            # Stage 1 sees the sentence as it is; what stands for words not yet written must not change it.
            follows = tuple(itertools.product(sentences, added))
            promised = (*follows, *self.generation_must_not_reach)
            check_no_leak(f"{self.name} stage 1", self.generation_reads, promised)
            self._arrays["generation"] = _bit_array(self.groups, self.generation_reads)

    def _faults(self) -> Iterator[str]:
        """Why this is no entry that `lay_out_all` can lay out, and what would be one."""
        sentences, added = self.groups[: self.num_sentences], self.groups[self.num_sentences :]
        if self.corruption not in CORRUPTIONS:
            yield f"corruption {self.corruption!r}; expected one of {', '.join(CORRUPTIONS)}"
        if self.num_sentences not in (1, 2):
            yield f"num_sentences {self.num_sentences}; expected 1, a line of text, or 2, a pair"
        if self.merges_lines and self.num_sentences > 1:
            yield "merges_lines joins the lines of a text, and pairs are none; leave it out"
        if self.is_pseudo_parallel and (self.corruption, self.num_sentences) != (REPLACE, 1):
            yield (
                f'placeholders with corruption "{self.corruption}" and num_sentences {self.num_sentences}; they need masks '
                f'that replace tokens, not inserted ones, of one sentence: "{REPLACE}" and 1'
            )
        if self.generation_must_not_reach and not self.is_pseudo_parallel:
            yield "generation_must_not_reach without generation_reads; give both or none"
        num_added = self.num_sentences * (self.corruption == INSERT) + self.is_pseudo_parallel
        if len(added) != num_added or len({*self.groups}) < len(self.groups):
            yield (
                f"groups {', '.join(self.groups)}; expected {self.num_sentences} of sentences, then {num_added} of their "
                "masks in the same order, or of placeholders, and all names different"
            )
        for what, table in (("reads", self.reads), ("generation_reads", self.generation_reads or self.reads)):
            read = {*" ".join(table.values()).split()}
            if {*table} != {*self.groups} or not read <= {*self.groups}:
                yield f"{what} {dict(table)}; expected a line for each of {', '.join(self.groups)}, and no other names"
        promised = {*itertools.chain(*self.must_not_reach, *self.generation_must_not_reach)}
        if not promised <= {*self.groups}:
            yield f"promises about {', '.join(sorted(promised - {*self.groups}))}; the groups are {', '.join(self.groups)}"
        predicted = added if self.corruption == INSERT else sentences
        if not {*sentences} & {*" ".join(self.reads.get(group, "") for group in predicted).split()}:
            yield f"{', '.join(predicted)}: predicted, and none reads a sentence; let one of them read {sentences[0]}"

    @property
    def is_pseudo_parallel(self) -> bool:
        """Whether placeholders are appended and filled by a no-grad forward before the loss (BTMLM)."""
        return self.generation_reads is not None

    @property
    def reads_by_group(self) -> np.ndarray:
        return self._arrays["reads"]

    @property
    def generation_reads_by_group(self) -> np.ndarray:
        return self._arrays["generation"]

    def length(self, corruption: CorruptionConfig, *num_tokens: Any) -> Any:
        """Positions that an example of these sentence lengths (ints or arrays) takes: exact, before anything is drawn."""
        return self._length(corruption, num_tokens, num_masked)

    def expected_length(self, corruption: CorruptionConfig, *mean_tokens: Any) -> Any:
        """Mean positions of examples whose sentences have these mean lengths (numbers or arrays)."""
        return self._length(corruption, mean_tokens, expected_masked)

    def _length(self, corruption: CorruptionConfig, num_tokens: Sequence[Any], masked: Callable[[Any, float], Any]) -> Any:
        total = sum(num_tokens) + 2 * len(
            num_tokens
        )  # in this order: of floats the last bit decides how many rows there are
        return total + sum(self._additions(corruption, num_tokens, masked))

    def _additions(
        self, corruption: CorruptionConfig, num_tokens: Sequence[Any], masked: Callable[[Any, float], Any]
    ) -> list[Any]:
        """Positions behind the sentences: the inserted masks of each sentence, or the placeholders."""
        if self.corruption == INSERT:
            return [masked(n, corruption.mask_rate) for n in num_tokens]
        return [masked(num_tokens[0], corruption.pseudo_token_share)] if self.is_pseudo_parallel else []

    def _of_parts(self, of_sentences_EC: np.ndarray, of_placeholders_E: np.ndarray) -> np.ndarray:
        """What is true of an example's sentences and of its placeholders, for all parts; masks are like their sentence."""
        repeats = 1 + (self.corruption == INSERT)
        last = [of_placeholders_E[:, None]] if self.is_pseudo_parallel else []
        return np.concatenate([of_sentences_EC] * repeats + last, axis=1)

    def positions_per_token(self, corruption: CorruptionConfig) -> float:
        """About how many positions one more token of a sentence takes, with what is appended for it."""
        appended = (
            corruption.mask_rate * (self.corruption == INSERT) + corruption.pseudo_token_share * self.is_pseudo_parallel
        )
        return 1 + appended

    @staticmethod
    def cut(num_tokens: Sequence[int], share: int) -> tuple[int, ...]:
        """The beginning of each sentence, in proportion, about `share` tokens in all; rounded up: no sentence vanishes."""
        total = sum(num_tokens)
        return tuple(-(-n * share // total) for n in num_tokens)

    def fitted(self, corruption: CorruptionConfig, num_tokens: Sequence[int], capacity: int) -> tuple[int, ...] | None:
        """The longest cut of these sentence lengths, in proportion, that fits; None when less than 1 token each does."""
        if min(num_tokens) < 1:
            return None
        if sum(num_tokens) <= capacity and int(self.length(corruption, *num_tokens)) <= capacity:
            return tuple(num_tokens)
        about = int(capacity / self.positions_per_token(corruption))  # specials and rounding take up to 6 a sentence
        shares = range(max(1, min(sum(num_tokens), about - 6 * self.num_sentences)), min(sum(num_tokens), about + 1))
        fits = bisect.bisect_right(
            shares, capacity, key=lambda share: int(self.length(corruption, *self.cut(num_tokens, share)))
        )
        return self.cut(num_tokens, shares[fits - 1]) if fits else None

    def lay_out(
        self, example: Example, corruption: CorruptionConfig, vocab_size: int, key: int, target_language: int = NO_LANGUAGE
    ) -> Document:
        """Turn an example into a document; all draws come from `key`, any number. Placeholders carry `target_language`."""
        lengths = [len(sentence) for sentence in example.sentences]
        keys_E, targets_E = np.array([mix(key)], np.uint64), np.array([target_language])
        tokens_T = np.concatenate(example.sentences)
        examples = Examples(tokens_T, np.array([lengths]), np.array([example.languages]), keys_E, targets_E)
        return self.lay_out_all(examples, corruption, vocab_size).joined

    def lay_out_all(self, examples: Examples, corruption: CorruptionConfig, vocab_size: int) -> Documents:
        """Turn examples into documents, all at once: each is the one that its example gives alone.

        A document's parts (P) are its sentences with their specials, then the masks of each sentence or the placeholders.
        """
        lengths_EC, num_sentences = examples.lengths_EC, self.num_sentences
        assert lengths_EC.shape[1] == num_sentences
        parts_EP = np.stack([*(lengths_EC.T + 2), *self._additions(corruption, list(lengths_EC.T), num_masked)], axis=1)
        starts_EP = (np.cumsum(parts_EP) - parts_EP.ravel()).reshape(parts_EP.shape)
        total, lengths_E = int(parts_EP.sum()), parts_EP.sum(axis=1)
        index = np.arange(total, dtype=np.int32)

        original = np.full(total, mask_id(vocab_size), np.int32)
        first_of_EC = starts_EP[:, :num_sentences]
        original[first_of_EC] = [BOS_ID, EOS_ID][:num_sentences]
        original[first_of_EC + lengths_EC + 1] = EOS_ID
        places_T = ranges(first_of_EC.ravel() + 1, lengths_EC.ravel())
        original[places_T] = examples.tokens_T
        position = index - np.repeat((starts_EP[:, 0] - FIRST_POSITION_ID).astype(np.int32), lengths_E)
        repeated = parts_EP.ravel()
        language = np.repeat(self._of_parts(examples.languages_EC, examples.targets_E).astype(np.int32), repeated)
        group = np.repeat(np.tile(self._arrays["groups"], len(parts_EP)), repeated)

        shown = original
        if self.corruption == NEXT_TOKEN:
            predicted = np.delete(index, np.cumsum(lengths_E) - 1)
            labels = original[predicted + 1]
        else:
            numbers_T = numbers_of(examples.keys_E, lengths_EC.sum(axis=1))
            masked = choose_masked(numbers_T, lengths_EC.ravel(), corruption.mask_rate)
            predicted, labels = places_T[masked].astype(np.int32), examples.tokens_T[masked]
            if self.corruption == REPLACE:
                shown = original.copy()
                shown[predicted] = replace_80_10_10(numbers_T[masked], labels, vocab_size)
            else:
                inserted = slice(num_sentences, 2 * num_sentences)
                behind = ranges(starts_EP[:, inserted].ravel(), parts_EP[:, inserted].ravel()).astype(np.int32)
                position[behind], predicted = position[predicted], behind
        stage_1 = self.generation_reads_by_group if self.is_pseudo_parallel else self.reads_by_group
        slots = ranges(starts_EP[:, -1], parts_EP[:, -1]) if self.is_pseudo_parallel else np.zeros(0)
        joined = Document(
            input_ids=shown,
            position_ids=position,
            language=language,
            group=group,
            reads=self.reads_by_group[group],
            horizon=index if self.corruption == NEXT_TOKEN else np.full_like(index, NO_HORIZON),
            predicted=predicted,
            labels=labels,
            generation_ids=original if self.is_pseudo_parallel else shown,
            generation_reads=stage_1[group],
            placeholders=slots.astype(np.int32),
        )
        return Documents(joined, lengths_E)


def _bit_array(groups: tuple[str, ...], table: ReadsTable) -> np.ndarray:
    bits = group_bits(groups, table)
    return np.array([bits[group] for group in groups], dtype=np.int32)


MMLM = Objective("MMLM", 1, REPLACE, groups=("X",), reads={"X": "X"}, merges_lines=True)

TLM = Objective("TLM", 2, REPLACE, groups=("X", "Y"), reads={"X": "X Y", "Y": "X Y"})

# Figure 1 and the worked example p(x2 | M2, y4, y5, y6, y7) of the paper: docs/decisions/0002.
CAMLM = Objective(
    "CAMLM",
    2,
    INSERT,
    groups=("X", "Y", "MX", "MY"),
    reads={"X": "X", "Y": "Y", "MX": "Y MX", "MY": "X MY"},
)

BTMLM = Objective(
    "BTMLM",
    1,
    REPLACE,
    groups=("X", "P"),
    reads={"X": "X P", "P": "X P"},
    generation_reads={"X": "X", "P": "X P"},
)

CLM = Objective("CLM", 1, NEXT_TOKEN, groups=("X",), reads={"X": "X"}, merges_lines=True)

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (MMLM, TLM, CAMLM, BTMLM, CLM)}
OBJECTIVE_INDEX: dict[str, int] = {name: index for index, name in enumerate(OBJECTIVES)}
