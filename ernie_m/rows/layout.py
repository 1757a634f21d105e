"""How an objective's examples become positions of a row, all examples at once:

1. Where the data gives the text alone, its source is made first (ernie_m.rows.own_pairs).
   The sentences stand side by side, and their positions count on: <s> x </s>, and in a pair </s> y </s> behind it, with the
   vocabulary's own special tokens (Specials). If the sentences stand `apart`, each is <s> x </s> and counts from the start.
   If positions are restarting (XLM), each sentence of a pair counts from the start too, and is </s> y </s> all the same.
2. Behind them stand the masks that the corruption appends, one for each predicted token, or the placeholders in a target
   language, whose positions count on.
3. The corruption chooses tokens and hides them (ernie_m.rows.corruption).
4. Each prediction of the objective finds its predicted positions and their labels (ernie_m.rows.predicted_positions).
"""

from __future__ import annotations

import bisect
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ernie_m.base.arrays import ranges
from ernie_m.base.console import InputError
from ernie_m.base.sampling import mix, numbers_of
from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.rows.batch import NO_HORIZON, Document, Documents, Example, Examples
from ernie_m.rows.corruption import (
    CORRUPTIONS,
    NOTHING,
    Corrupted,
    CorruptionConfig,
    Count,
    Laid,
    choose_masked,
    expected_masked,
    num_masked,
)
from ernie_m.rows.objective import GIVEN, NOISED, WRITTEN, Objective
from ernie_m.rows.own_pairs import TENTHS_LONGER, expected_most_written, most_written, noised, with_room
from ernie_m.rows.predicted_positions import FINDERS, Found, in_order

NOTHING_CHOSEN = np.zeros(0, np.int64)
Positions = Literal["running", "restarting"]


class Layout:
    """Lays out the examples of one objective, for given corruption rates and a vocabulary.

    `positions`: whether those of a pair's second sentence count on or start again, as they always do where sentences stand
    `apart`. `begins_word`: of each id whether a word begins with it (ernie_m.corpus.words); noise moves words.
    `num_special`: number of special tokens of an example, in all its sentences together.
    """

    def __init__(
        self,
        objective: Objective,
        rates: CorruptionConfig,
        specials: Specials,
        positions: Positions = "running",
        begins_word: np.ndarray | None = None,
    ) -> None:
        """Raises InputError for an objective with masks where the vocabulary has none."""
        puts_masks = objective.corruption != NOTHING or objective.is_pseudo_parallel or objective.source != GIVEN
        if specials.mask is None and puts_masks:
            why = "the tokenizer has no mask token; expected an objective without masks, such as XLCO"
            raise InputError(f"{objective.name}: {why}")
        self.objective, self.rates, self.specials, self._begins_word = objective, rates, specials, begins_word
        self._restarts = objective.apart or (positions == "restarting" and objective.num_sentences > 1)
        self._corruption = CORRUPTIONS[objective.corruption]
        second = specials.begin if objective.apart else specials.begin_second
        self._begins = (specials.begin, second)[: objective.num_sentences]  # None: nothing stands in front
        self._fronts = np.array([begin is not None for begin in self._begins], np.int64)
        self.num_special = int(self._fronts.sum()) + objective.num_sentences

    def length(self, *num_tokens: Count) -> Count:
        """Number of positions of an example with these sentence lengths (ints or arrays). Exact: no draw changes it.

        Of a text whose source is made: twice its longer side at most, since each has half a row.
        """
        return self._length(num_tokens, num_masked, most_written)

    def sides(self, num_tokens_EC: np.ndarray) -> np.ndarray:
        """Positions of each sentence with its special tokens, int64 [E, C]."""
        return num_tokens_EC + self._fronts + 1

    def expected_length(self, *mean_tokens: np.ndarray) -> np.ndarray:
        """Mean number of positions of examples whose sentences have these mean lengths."""
        return self._length(mean_tokens, expected_masked, expected_most_written)

    def _length(
        self, num_tokens: Sequence[Count], masked: Callable[[Count, float], Count], written: Callable[[Count], Count]
    ) -> Count:
        if self.objective.source != GIVEN:
            (text,) = num_tokens
            longer: Count = text if self.objective.source == NOISED else written(text)
            return 2 * (longer + int(self._fronts[0]) + 1)
        # keep this order: the last bit of a float can change the number of rows
        total: Count = functools.reduce(operator.add, num_tokens) + self.num_special
        return total + sum(self._additions(num_tokens, masked))

    def _additions(self, num_tokens: Sequence[Count], masked: Callable[[Count, float], Count]) -> list[Count]:
        """Number of positions behind the sentences: of the appended masks of each sentence, or of the placeholders."""
        if self._corruption.appends:
            return [masked(n, self.rates.mask_rate) for n in num_tokens]
        if self.objective.is_pseudo_parallel:
            return [masked(num_tokens[0], self.rates.pseudo_token_share)]
        return []

    @property
    def positions_per_token(self) -> float:
        """About how many positions one more token of a sentence takes, with the masks or placeholders added for it."""
        if self.objective.source != GIVEN:
            return 2.0 if self.objective.source == NOISED else 2 * TENTHS_LONGER / 10
        of_masks = self.rates.mask_rate * self._corruption.appends
        return 1 + (of_masks + self.rates.pseudo_token_share * self.objective.is_pseudo_parallel)

    @staticmethod
    def cut(num_tokens: Sequence[int], share: int) -> tuple[int, ...]:
        """How many tokens to keep of each sentence, about `share` in all, in proportion; rounded up, so at least 1 each."""
        total = sum(num_tokens)
        return tuple(-(-n * share // total) for n in num_tokens)

    def fitted(self, num_tokens: Sequence[int], capacity: int) -> tuple[int, ...] | None:
        """The most tokens of each sentence, in proportion, that fit in `capacity` positions; None if 1 of each does not."""
        if min(num_tokens) < 1:
            return None
        if sum(num_tokens) <= capacity and self.length(*num_tokens) <= capacity:
            return tuple(num_tokens)
        about = int(capacity / self.positions_per_token)  # special tokens and rounding take up to 6 positions a sentence
        first = max(1, min(sum(num_tokens), about - 6 * self.objective.num_sentences))
        shares = range(first, min(sum(num_tokens), about + 1))
        fits = bisect.bisect_right(shares, capacity, key=lambda share: self.length(*self.cut(num_tokens, share)))
        return self.cut(num_tokens, shares[fits - 1]) if fits else None

    def lay_out(self, example: Example, key: int, target_language: int = NO_LANGUAGE) -> Document:
        """Turn an example into a document. `key` (any number) is its random key; placeholders carry `target_language`."""
        lengths = [len(sentence) for sentence in example.sentences]
        keys_E, targets_E = np.array([mix(key)], np.uint64), np.array([target_language])
        tokens_T = np.concatenate(example.sentences)
        return self.lay_out_all(
            Examples(tokens_T, np.array([lengths]), np.array([example.languages]), keys_E, targets_E, example.columns)
        ).joined

    def lay_out_all(self, examples: Examples) -> Documents:
        """Turn examples into documents, all at once. Each document is the same as if its example were laid out alone.

        The parts (P) of a document: its sentences with their special tokens; then the masks of each sentence, or the
        placeholders.
        """
        assert examples.lengths_EC.shape[1] == self.objective.num_given
        examples = self._pairs(examples)
        objective, lengths_EC = self.objective, examples.lengths_EC
        additions = self._additions(list(lengths_EC.T), num_masked)
        parts_EP = np.stack([*self.sides(lengths_EC).T, *additions], axis=1)
        starts_EP = (np.cumsum(parts_EP) - parts_EP.ravel()).reshape(parts_EP.shape)
        lengths_E, repeated = parts_EP.sum(axis=1), parts_EP.ravel()
        index = np.arange(int(repeated.sum()), dtype=np.int32)
        group = np.repeat(np.tile(np.arange(len(objective.groups), dtype=np.int32), len(parts_EP)), repeated)
        language = np.repeat(self._languages(examples).astype(np.int32), repeated)

        laid = self._laid(examples, starts_EP, parts_EP, index)
        chosen, corrupted = self._corrupt(examples, laid)
        found = Found(laid, corrupted, chosen, group, starts_EP, parts_EP, examples.columns)
        asked = [FINDERS[prediction.asked](objective, found) for prediction in objective.predictions]
        generates = objective.is_pseudo_parallel
        written = -1 if generates else 0  # the part that the model writes: placeholders, or the source
        slots = ranges(starts_EP[:, written], parts_EP[:, written]) if objective.generates else np.zeros(0)
        joined = Document(
            input_ids=corrupted.ids,
            position_ids=corrupted.position_ids,
            language=language,
            group=group,
            reads=objective.reads_by_group[group],
            horizon=np.where(objective.causal_by_group[group], index, np.int32(NO_HORIZON)),
            **in_order(asked),
            generation_ids=laid.ids if generates else corrupted.ids,
            generation_reads=objective.generation_reads_by_group[group],
            placeholders=slots.astype(np.int32),
        )
        return Documents(joined, lengths_E)

    def _pairs(self, examples: Examples) -> Examples:
        """Examples with all their sentences."""
        if self.objective.source == GIVEN:
            return examples
        assert self.specials.mask is not None
        if self.objective.source == WRITTEN:
            return with_room(examples, self.specials.mask)
        assert self._begins_word is not None, "noise moves words; tell where they begin"
        return noised(examples, self.rates, self._begins_word, self.specials.mask)

    def _languages(self, examples: Examples) -> np.ndarray:
        """Language of each part, [E, P]: masks have that of their sentence, placeholders the target language."""
        of_sentences = [examples.languages_EC] * (1 + self._corruption.appends)
        of_placeholders = [examples.targets_E[:, None]] if self.objective.is_pseudo_parallel else []
        return np.concatenate([*of_sentences, *of_placeholders], axis=1)

    def _laid(self, examples: Examples, starts_EP: np.ndarray, parts_EP: np.ndarray, index: np.ndarray) -> Laid:
        num_sentences, specials = self.objective.num_sentences, self.specials
        ids = np.full(len(index), specials.end if specials.mask is None else specials.mask, np.int32)
        first_EC = starts_EP[:, :num_sentences]
        for column, begin in enumerate(self._begins):
            if begin is not None:
                ids[first_EC[:, column]] = begin
        text_EC = first_EC + self._fronts
        ids[text_EC + examples.lengths_EC] = specials.end
        places_T = ranges(text_EC.ravel(), examples.lengths_EC.ravel())
        ids[places_T] = examples.tokens_T
        whole = starts_EP[:, 0], parts_EP.sum(axis=1)
        begins, lengths = (starts_EP.ravel(), parts_EP.ravel()) if self._restarts else whole
        position_ids = index - np.repeat((begins - specials.first_position).astype(np.int32), lengths)
        appended = slice(num_sentences, 2 * num_sentences if self._corruption.appends else num_sentences)
        behind = ranges(starts_EP[:, appended].ravel(), parts_EP[:, appended].ravel())
        return Laid(ids, position_ids, places_T, examples.tokens_T, behind)

    def _corrupt(self, examples: Examples, laid: Laid) -> tuple[np.ndarray, Corrupted]:
        """The chosen tokens (indices into T), and what the model sees."""
        if self._corruption.apply is None:
            return NOTHING_CHOSEN, Corrupted(laid.ids, laid.position_ids, NOTHING_CHOSEN.astype(np.int32))
        numbers_T = numbers_of(examples.keys_E, examples.lengths_EC.sum(axis=1))
        chosen = choose_masked(numbers_T, examples.lengths_EC.ravel(), self.rates.mask_rate)
        return chosen, self._corruption.apply(laid, chosen, numbers_T, self.specials)
