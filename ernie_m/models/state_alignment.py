"""Word links from a model's own states: do the states of words that translate each other lie nearest to each other?

Two tokens are linked when each is the other's nearest by cosine, in one layer's states; two words when two of their tokens
are (SimAlign's Argmax on subwords: Jalili Sabet, Dufter, Yvon and Schütze 2020). Each sentence is read alone, so nothing
but the states' meaning brings words together. This measures alignment by words, as retrieval does by sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ernie_m.base.console import Progress
from ernie_m.corpus.word_links import GoldPair, Link, Score, score
from ernie_m.models.retrieval import states_of_layers
from ernie_m.models.tokenized import Tokenized

PAIRS_AT_A_TIME = 32
Words = Sequence[str]


class TokenizedPairs:
    """The sentences of pairs, given as words, which are joined by spaces; `sides` has the sources and the targets."""

    def __init__(self, tokenizer: Any, pairs: Sequence[tuple[Words, Words]]) -> None:
        self.words = pairs
        self.sides = [Tokenized(tokenizer, [" ".join(pair[side]) for pair in pairs]) for side in (0, 1)]


def state_links(
    model: nn.Module, pairs: TokenizedPairs, layers: Sequence[int], device: torch.device, note: str
) -> list[list[set[Link]]]:
    """Of each layer (0: the embeddings), the links of every pair's words. A word that is not read has no link."""
    links: list[list[set[Link]]] = [[set() for _ in pairs.words] for _ in layers]
    order = sorted(range(len(pairs.words)), key=lambda i: sum(map(len, pairs.words[i][0])))
    progress = Progress(f"linking {note}", len(order), "pairs")
    model.eval().to(device)
    for start in range(0, len(order), PAIRS_AT_A_TIME):
        chosen = order[start : start + PAIRS_AT_A_TIME]
        sides = [_states(model, pairs, side, chosen, layers, device) for side in (0, 1)]
        for number, (source, target) in zip(chosen, zip(*sides, strict=True), strict=True):
            for row, found in enumerate(links):
                found[number] = word_links(source[0][row], source[1], target[0][row], target[1])
        progress.advance(len(chosen))
    progress.close()
    return links


def state_scores(
    model: nn.Module,
    pairs: TokenizedPairs,
    gold: Sequence[GoldPair],
    layers: Sequence[int],
    device: torch.device,
    note: str,
) -> dict[str, Score]:
    """Of each layer, how good the links of its states are against the gold of these pairs."""
    links = state_links(model, pairs, layers, device, note)
    return {str(layer): score(found, gold) for layer, found in zip(layers, links, strict=True)}


def word_links(source_ND: Tensor, source_words: list[int], target_MD: Tensor, target_words: list[int]) -> set[Link]:
    """Links between words, of tokens' states in one layer; `*_words` has the word of each token."""
    return {(source_words[i], target_words[j]) for i, j in mutual_nearest(source_ND, target_MD)}


def mutual_nearest(source_ND: Tensor, target_MD: Tensor) -> list[Link]:
    """(i, j) of all states that are each other's nearest by cosine; of equally near ones the first counts."""
    if not len(source_ND) or not len(target_MD):
        return []
    source_ND, target_MD = (nn.functional.normalize(states.float(), dim=1) for states in (source_ND, target_MD))
    cosine_NM = source_ND @ target_MD.T
    ahead_N, back_M = cosine_NM.argmax(dim=1), cosine_NM.argmax(dim=0)
    own_N = torch.arange(len(ahead_N), device=ahead_N.device)
    mutual_N = back_M[ahead_N] == own_N
    return list(zip(own_N[mutual_N].tolist(), ahead_N[mutual_N].tolist(), strict=True))


def _states(
    model: nn.Module, pairs: TokenizedPairs, side: int, chosen: Sequence[int], layers: Sequence[int], device: torch.device
) -> list[tuple[Tensor, list[int]]]:
    """Of one side of each pair the states of its tokens of text in these layers, [layers, N, D], and the word of each."""
    texts = pairs.sides[side]
    with torch.no_grad():
        states = states_of_layers(model, texts.batch(chosen).to(device), "alignment")
    states_LBSD = torch.stack([states[layer] for layer in layers])
    found = []
    for row, number in enumerate(chosen):
        words = words_of_tokens(pairs.words[number][side], texts.offsets[number])
        of_text = [(place, word) for place, word in enumerate(words) if word >= 0]
        places = torch.tensor([place for place, _ in of_text], dtype=torch.long, device=device)
        found.append((states_LBSD[:, row, places], [word for _, word in of_text]))
    return found


def words_of_tokens(words: Words, offsets: Sequence[Sequence[int]]) -> list[int]:
    """The word that each token's last character is of, in the words joined by spaces; -1 for tokens without text."""
    word_at: list[int] = []
    for number, word in enumerate(words):
        word_at += [number] * len(word) + [-1]
    return [word_at[stop - 1] if start < stop else -1 for start, stop in offsets]
