"""THE table of objectives: who reads whom, what is corrupted, and what is predicted from which states.

An entry says, beside its sentences and groups:

1. `corruption`: "none"; "replace" puts masks in the place of tokens (80/10/10); "insert" keeps the tokens and appends one
   <mask> for each predicted token, with that token's position id and language (ernie_m.rows.corruption).
2. `reads`: which group reads which. A token of a `causal` group reads its own group only up to itself.
3. `predictions`: which head predicts, at which tokens, and the name of the loss.
4. `generation_reads`: placeholders in a target language stand behind the sentence, and the generation fills them (BTMLM).
5. `source`: whether the data gives both sentences of a pair, or the first is made of the second (AE, BT).

What must not reach whom follows from these. An entry is refused when it is built if a state could learn its own label, over
any number of layers. How an entry becomes positions of a row: ernie_m.rows.layout. docs/objectives.md draws all of them,
docs/add_an_objective.md shows how to add one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np

from ernie_m.base.config import Section, section
from ernie_m.base.ranges import Range
from ernie_m.corpus.columns import LINKS
from ernie_m.rows.attention_rule import ReadsTable, check_no_leak, closure, group_bits
from ernie_m.rows.corruption import CORRUPTIONS, INSERT, NOTHING, REPLACE

TOKEN, SENTENCE, ALIGNED = "token", "sentence", "aligned"
HEADS = (TOKEN, SENTENCE, ALIGNED)
"""Names of heads, in the order in which a model has them; ernie_m.models.heads has the modules."""
EMBEDDINGS, ENCODER, HEADS_PART = "embeddings", "encoder", "heads"
PARTS = (EMBEDDINGS, ENCODER, HEADS_PART)
"""Parts of a model. A stage may train some of them only, a recipe may give each its own learning rate. ernie_m.models.parts
finds them. A head's output matrix belongs to the embeddings if the two share it."""
CORRUPTED, NEXT, SENTENCES, LINKED = "corrupted", "next", "sentences", "linked"
ASKED = {
    CORRUPTED: "each token that the corruption chose; its label is the token itself",
    NEXT: "each token of a causal group except the last of its sentence; its label is the next token",
    SENTENCES: "the first token of each sentence; its label is the distance to the first token of its translation",
    LINKED: "each token that the corruption chose and that has a link; its label is the token itself, its sources are the "
    "tokens that it is linked with",
}
"""At which tokens a prediction is made (ernie_m.rows.layout finds them)."""
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


@section
class CorruptionConfig(Section):
    """How much is predicted and generated."""

    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15
    """Share of the tokens that are predicted (that of BERT and XLM-R; ERNIE-M's is not published)."""
    pseudo_token_share: Annotated[float, Range(least=0.05, most=0.20)] = 0.10
    """BTMLM: pseudo tokens per token of the sentence; the paper compares 0.05, 0.10, 0.15 and 0.20."""
    shuffle_places: Annotated[int, Range(least=0, most=1000, zero="words keep their places")] = 3
    """AE: places by which a word may move."""
    drop_rate: Annotated[float, Range(least=0, below=1, zero="none")] = 0.1
    """AE: share of the words that are left out."""
    blank_rate: Annotated[float, Range(least=0, most=1, zero="none")] = 0.1
    """AE: share of the words whose tokens show <mask>."""


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


MMLM = Objective("MMLM", 1, REPLACE, ("X",), {"X": "X"}, (Prediction("MMLM"),), merges_lines=True)

TLM = Objective("TLM", 2, REPLACE, ("X", "Y"), {"X": "X Y", "Y": "X Y"}, (Prediction("TLM"),))

# Figure 1 and the worked example p(x2 | M2, y4, y5, y6, y7) of the paper: docs/decisions/0002.
CAMLM = Objective(
    "CAMLM",
    2,
    INSERT,
    groups=("X", "Y", "MX", "MY"),
    reads={"X": "X", "Y": "Y", "MX": "Y MX", "MY": "X MY"},
    predictions=(Prediction("CAMLM"),),
)

BTMLM = Objective(
    "BTMLM",
    1,
    REPLACE,
    groups=("X", "P"),
    reads={"X": "X P", "P": "X P"},
    predictions=(Prediction("BTMLM"),),
    generation_reads={"X": "X", "P": "X P"},
)

CLM = Objective("CLM", 1, NOTHING, ("X",), {"X": "X"}, (Prediction("CLM", asked=NEXT),), causal=("X",), merges_lines=True)

# InfoXLM (arXiv 2007.07834, section 3.3): which of the other sentences in the row is the translation of this one?
XLCO = Objective(
    "XLCO",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "Y"},
    predictions=(Prediction("XLCO", SENTENCE, SENTENCES),),
    apart=True,
)

# A prefix language model (T5, arXiv 1910.10683, section 3.2.1) over a pair: the target reads the source and its own past.
PLM = Objective(
    "PLM",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "X Y"},
    predictions=(Prediction("PLM", asked=NEXT),),
    causal=("Y",),
)

# Translation (XLM, arXiv 1901.07291, section 5.2): an encoder reads the source, a decoder that and the target's own past.
MT = Objective(
    "MT",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "X Y"},
    predictions=(Prediction("MT", asked=NEXT),),
    causal=("Y",),
    apart=True,
    halves=True,
)

# Denoising (arXiv 1901.07291, section 5.2; noise of arXiv 1711.00043): a text from itself, words moved, dropped, blanked.
AE = replace(MT, name="AE", predictions=(Prediction("AE", asked=NEXT),), source=NOISED)

# On-line back-translation (arXiv 1901.07291, section 5.2): a text from what the model makes of it in another language.
BT = replace(MT, name="BT", predictions=(Prediction("BT", asked=NEXT),), source=WRITTEN)

# Bilingual alignment pre-training (arXiv 2106.01732, equations 1-8): a TLM row; a masked token with links is predicted once
# more, from the states of the tokens that it is linked with.
ALIGNLM = Objective(
    "AlignLM",
    2,
    REPLACE,
    groups=("X", "Y"),
    reads={"X": "X Y", "Y": "X Y"},
    predictions=(Prediction("AlignLM"), Prediction("AlignLM_bilingual", ALIGNED, LINKED)),
)

OBJECTIVES: dict[str, Objective] = {o.name: o for o in (MMLM, TLM, CAMLM, BTMLM, CLM, XLCO, PLM, MT, ALIGNLM, AE, BT)}
OBJECTIVE_INDEX: dict[str, int] = {name: index for index, name in enumerate(OBJECTIVES)}
"""Number of each objective."""
PREDICTIONS: dict[str, Prediction] = {p.loss: p for objective in OBJECTIVES.values() for p in objective.predictions}
"""Each prediction, by the name of its loss; those of one objective follow each other."""
LOSS_INDEX: dict[str, int] = {name: index for index, name in enumerate(PREDICTIONS)}
"""Number of each loss."""
assert len(PREDICTIONS) == sum(len(objective.predictions) for objective in OBJECTIVES.values()), "two losses share a name"


def heads_of(objectives: Iterable[str]) -> tuple[str, ...]:
    """Heads that these objectives need, in the order of HEADS."""
    asked = {prediction.head for name in objectives for prediction in OBJECTIVES[name].predictions}
    return tuple(head for head in HEADS if head in asked)
