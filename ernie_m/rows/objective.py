"""What an objective is: an entry of THE table (ernie_m.rows.objectives), which says beside its sentences and groups:

1. `corruption`: "none"; "replace" puts masks in the place of tokens (80/10/10); "insert" keeps the tokens and appends one
   <mask> for each predicted token, with that token's position id and language (ernie_m.rows.corruption).
2. `reads`: which group reads which. A token of a `causal` group reads its own group only up to itself.
3. `predictions`: which head predicts, at which tokens, and the name of the loss.
4. `generation_reads`: placeholders in a target language stand behind the sentence, and the generation fills them (BTMLM).
5. `source`: whether the data gives both sentences of a pair, or the first is made of the second (AE, BT).

What must not reach whom follows from these. An entry is refused when it is built if a state could learn its own label, over
any number of layers. How an entry becomes positions of a row: ernie_m.rows.layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ernie_m.corpus.columns import LINKS
from ernie_m.rows.attention_rule import ReadsTable, check_no_leak, closure, group_bits
from ernie_m.rows.corruption import CORRUPTIONS, INSERT, NOTHING, REPLACE

TOKEN, SENTENCE, ALIGNED = "token", "sentence", "aligned"
HEADS = (TOKEN, SENTENCE, ALIGNED)
"""Names of heads, in the order in which a model has them; ernie_m.models.heads has the modules."""
CORRUPTED, NEXT, SENTENCES, LINKED = "corrupted", "next", "sentences", "linked"
ASKED = {
    CORRUPTED: "each token that the corruption chose; its label is the token itself",
    NEXT: "each token of a causal group except the last of its sentence; its label is the next token",
    SENTENCES: "the first token of each sentence; its label is the distance to the first token of its translation",
    LINKED: "each token that the corruption chose and that has a link; its label is the token itself, its sources are the "
    "tokens that it is linked with",
}
"""At which tokens a prediction is made (ernie_m.rows.predicted_positions finds them)."""
CHOSEN = (CORRUPTED, LINKED)
"""Those that ask for tokens which the corruption chose."""
GIVEN, NOISED, WRITTEN = "given", "noised", "written"
SOURCES = {
    GIVEN: "the data has both sentences",
    NOISED: "the data has the second, and the first is that with noise",
    WRITTEN: "the data has the second, and the model translates it into another language before the loss",
}
"""Where the first sentence of a pair comes from (ernie_m.rows.own_pairs)."""
COLUMNS_READ = {LINKED: (LINKS.name,)}
"""Optional columns (ernie_m.corpus.columns) that a way to ask reads."""


@dataclass(frozen=True)
class Prediction:
    """One prediction: by `head` (one of HEADS), at the tokens `asked` (one of ASKED). Metrics and weights call it `loss`."""

    loss: str
    head: str = TOKEN
    asked: str = CORRUPTED


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    `groups`, in bit order: each sentence; then the masks of each sentence ("insert"), or the placeholders. `reads` and
    `generation_reads` map each group to those that it reads. `apart`: each sentence begins with <s> and with the first
    position id, as if alone. `halves`: sources have the first half of a row and targets the second, for a decoder.
    `source`: one of SOURCES. `merges_lines`: lines of a text are joined to fill a row. `must_not_reach` and
    `generation_must_not_reach`: (reader, forbidden) pairs to be checked beside those that follow from the rest.
    Raises ValueError if the entry makes no sense or leaks.
    """

    name: str
    num_sentences: int
    corruption: str
    groups: tuple[str, ...]
    reads: ReadsTable
    predictions: tuple[Prediction, ...]
    causal: tuple[str, ...] = ()
    apart: bool = False
    halves: bool = False
    source: str = GIVEN
    must_not_reach: tuple[tuple[str, str], ...] = ()
    generation_reads: ReadsTable | None = None
    generation_must_not_reach: tuple[tuple[str, str], ...] = ()
    merges_lines: bool = False

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ValueError(f"{self.name}: {fault}")
        check_no_leak(self.name, self.reads, (*self._answers(), *self.must_not_reach))
        if self.generation_reads is not None:
            # The generation reads the sentence uncorrupted; placeholders hold no words yet and must not change its states.
            follows = tuple(itertools.product(self.sentences, self.added))
            promised = (*follows, *self.generation_must_not_reach)
            check_no_leak(f"{self.name} stage 1", self.generation_reads, promised)

    def _answers(self) -> Iterator[tuple[str, str]]:
        """(reader, forbidden) pairs: through these a predicted token would learn its own label.

        Masks that replace tokens need none: the label is not in the row.
        """
        if self.corruption == INSERT:  # the whole sentence is in the row too
            yield from zip(self.added, self.sentences, strict=True)
            if any(prediction.asked == LINKED for prediction in self.predictions):  # it reads the other sentence's states
                yield from itertools.permutations(self.sentences, 2)
        if any(prediction.asked == SENTENCES for prediction in self.predictions):
            yield from itertools.permutations(self.sentences, 2)
        if self.halves:  # the source is read before anything of the target is known
            yield self.sentences[0], self.sentences[1]
        reached = closure(self.reads)
        for group in self.causal:  # what it reads without a horizon must not know its later tokens
            yield from ((other, group) for other in reached[group] if other not in self.causal)

    def _faults(self) -> Iterator[str]:
        """What is wrong with this entry, and what was expected."""
        added = self.added
        if self.corruption not in CORRUPTIONS:
            yield f"corruption {self.corruption!r}; expected one of {', '.join(CORRUPTIONS)}"
        if self.num_sentences not in (1, 2):
            yield f"num_sentences {self.num_sentences}; expected 1, a line of text, or 2, a pair"
        if self.merges_lines and self.num_sentences > 1:
            yield "merges_lines joins lines of text, and these are pairs; leave it out"
        if self.halves and (self.num_sentences, self.corruption, self.causal) != (2, NOTHING, self.sentences[1:]):
            yield f"halves with causal groups {self.causal}; expected a pair, no corruption, and its second sentence causal"
        if self.source not in SOURCES:
            yield f"source {self.source!r}; expected one of {', '.join(SOURCES)}"
        if self.source != GIVEN and not self.halves:
            yield f"source {self.source!r} without halves; the first sentence is made for an encoder: give both or none"
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
        yield from self._faults_of_predictions()

    def _faults_of_predictions(self) -> Iterator[str]:
        if not self.predictions:
            yield "no predictions; nothing would be learnt: give one at least"
        if not {*self.causal} <= {*self.sentences}:
            yield f"causal {', '.join(self.causal)}; expected groups of sentences: {', '.join(self.sentences)}"
        for prediction in self.predictions:
            if prediction.head not in HEADS:
                yield f"{prediction.loss}: head {prediction.head!r}; expected one of {', '.join(HEADS)}"
            if prediction.asked not in ASKED:
                yield f"{prediction.loss}: asked {prediction.asked!r}; expected one of {', '.join(ASKED)}"
            if "/" in prediction.loss:
                yield f"loss {prediction.loss!r}; a slash separates it from its stream in metrics: choose another name"
            if (prediction.asked in CHOSEN) != (self.corruption != NOTHING):
                yield f'{prediction.loss}: asked "{prediction.asked}" with corruption "{self.corruption}"; both or neither'
            if (prediction.asked == NEXT) != bool(self.causal):
                yield f'{prediction.loss}: asked "{prediction.asked}" with causal groups {self.causal}; both or neither'
            if prediction.asked == SENTENCES and self.num_sentences != 2:
                yield f"{prediction.loss}: asks for translations, and num_sentences is {self.num_sentences}; expected 2"
            if prediction.asked == LINKED and self.num_sentences != 2:
                yield f"{prediction.loss}: reads links of pairs, and num_sentences is {self.num_sentences}; expected 2"
            if (prediction.asked == LINKED) != (prediction.head == ALIGNED):
                found = f'head "{prediction.head}" asked "{prediction.asked}"'
                yield f'{prediction.loss}: {found}; head "{ALIGNED}" and asked "{LINKED}" go together'
        for index, group in enumerate(self.sentences):
            behind = {*self.sentences[index + 1 :]} & {*self.reads.get(group, "").split()}
            if group in self.causal and behind:
                yield f"causal {group} reads {', '.join(behind)}, which stands behind it and is never seen; leave that out"
        predicted = self.added if self.corruption == INSERT else self.causal or self.sentences
        if not {*self.sentences} & {*" ".join(self.reads.get(group, "") for group in predicted).split()}:
            yield f"{', '.join(predicted)}: predicted, and none reads a sentence; let one of them read {self.sentences[0]}"

    @property
    def num_given(self) -> int:
        """Sentences that the data gives: 1 a line of text, 2 a pair."""
        return self.num_sentences if self.source == GIVEN else 1

    @property
    def cuts(self) -> bool:
        """Whether examples that are too long may be cut. A cut translation is a wrong one; a cut line is a line."""
        return not self.halves or self.source != GIVEN

    @property
    def generates(self) -> bool:
        """Whether the model writes a part of the row before the loss."""
        return self.is_pseudo_parallel or self.source == WRITTEN

    @property
    def sentences(self) -> tuple[str, ...]:
        """Groups of the sentences."""
        return self.groups[: self.num_sentences]

    @property
    def added(self) -> tuple[str, ...]:
        """Groups behind the sentences: inserted masks, or placeholders."""
        return self.groups[self.num_sentences :]

    @property
    def is_pseudo_parallel(self) -> bool:
        """Whether placeholders are appended, and filled by a forward without gradient before the loss (BTMLM)."""
        return self.generation_reads is not None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Optional columns of the data that its predictions read."""
        return tuple(dict.fromkeys(name for p in self.predictions for name in COLUMNS_READ.get(p.asked, ())))

    @cached_property
    def reads_by_group(self) -> np.ndarray:
        """`reads` as a bitmask for each group, int32."""
        return self._bits(self.reads)

    @cached_property
    def generation_reads_by_group(self) -> np.ndarray:
        """`generation_reads` as a bitmask for each group, int32; that of `reads` if there is no generation."""
        return self._bits(self.generation_reads or self.reads)

    @cached_property
    def causal_by_group(self) -> np.ndarray:
        """Whether each group is causal, bool."""
        return np.array([group in self.causal for group in self.groups])

    def _bits(self, table: ReadsTable) -> np.ndarray:
        bits = group_bits(self.groups, table)
        return np.array([bits[group] for group in self.groups], dtype=np.int32)
