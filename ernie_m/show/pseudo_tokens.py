"""Pseudo tokens of BTMLM: sentences of training rows, and what the model writes behind them.

Each token is shown with the likeliest other pieces, each sentence with the document that training makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.models.pretraining import PretrainingModel, stage_1, without_training
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.schedule import RowAddress
from ernie_m.show.attention_pictures import packed

EXAMPLES = 6
ROWS = 8
CANDIDATES = 4
MOST_TOKENS = 60
"""Longer sentences are shown only where there are no others."""


@dataclass(frozen=True)
class PseudoToken:
    """A token that was written; `candidates`: the likeliest pieces and their probabilities among all real pieces."""

    id: int
    piece: str
    candidates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Written:
    """A sentence, the language it was continued in, and the tokens; `trained` is the document of stage 2, piece by piece,
    each with what it is: '', 'masked' (predicted) or 'pseudo'."""

    language: str
    target_language: str
    sentence: str
    tokens: tuple[PseudoToken, ...]
    text: str
    trained: tuple[tuple[str, str], ...]


def written(
    data: PretrainingData,
    rows: Sequence[RowAddress],
    model: PretrainingModel,
    vocabulary: AnyVocabulary,
    languages: Mapping[int, str],
) -> list[Written]:
    """Examples from the first of these BTMLM rows, from as many different language pairs as possible."""
    batch = packed(data, rows[:ROWS])
    assert batch.generation is not None
    generation, S = batch.generation, batch.input_ids_BS.shape[1]
    filled_BS = fill_placeholders(model, batch).input_ids_BS.numpy()
    with without_training(model):
        hidden_KD = model.hidden_states(stage_1(batch, generation), wanted_N=generation.placeholders_K)
    slots_K = generation.slots_K.numpy()
    document_K = batch.document_BS.numpy().ravel()[slots_K]
    found = []
    for row, document in _chosen(batch.document_BS.numpy(), batch.language_BS.numpy(), slots_K, document_K, S):
        here = np.flatnonzero(batch.document_BS[row].numpy() == document)
        own = np.flatnonzero((slots_K // S == row) & (document_K == document))
        ids = filled_BS[row, slots_K[own] % S].tolist()
        candidates = _candidates(model, hidden_KD[own], vocabulary)
        tokens = tuple(PseudoToken(*token) for token in zip(ids, vocabulary.pieces(ids), candidates, strict=True))
        in_generation = int((generation.rows_R == row).nonzero()[0, 0])
        sentence = np.setdiff1d(here, slots_K[own] % S)
        kinds = dict.fromkeys((batch.predicted_N[batch.predicted_N // S == row] % S).tolist(), "masked")
        kinds |= dict.fromkeys((slots_K[own] % S).tolist(), "pseudo")
        found.append(
            Written(
                language=languages[int(batch.language_BS[row, here[0]])],
                target_language=languages[int(batch.language_BS[row, slots_K[own[0]] % S])],
                sentence=vocabulary.decode(generation.input_ids_RS[in_generation, sentence].tolist()),
                tokens=tokens,
                text=vocabulary.decode(ids),
                trained=tuple(
                    zip(
                        vocabulary.pieces(filled_BS[row, here].tolist()),
                        (kinds.get(p, "") for p in here.tolist()),
                        strict=True,
                    )
                ),
            )
        )
    return found


def _candidates(
    model: PretrainingModel, hidden_ND: Tensor, vocabulary: AnyVocabulary
) -> list[tuple[tuple[str, float], ...]]:
    """The likeliest real pieces at each position, special tokens apart as when pseudo tokens are chosen."""
    with without_training(model):
        logits_NV = model.token_head.logits(hidden_ND).float()
    pieces = torch.cat([torch.arange(first, end) for first, end in model.token_head.pieces])
    likeliest = torch.topk(torch.softmax(logits_NV[:, pieces], dim=1), CANDIDATES, dim=1)
    return [
        tuple(zip(vocabulary.pieces(ids), probabilities, strict=True))
        for ids, probabilities in zip(pieces[likeliest.indices].tolist(), likeliest.values.tolist(), strict=True)
    ]


def _chosen(
    document_BS: np.ndarray, language_BS: np.ndarray, slots_K: np.ndarray, document_K: np.ndarray, sequence_length: int
) -> list[tuple[int, int]]:
    """(row, document) of the examples: one a pair of languages first, short ones with more than one token before others."""
    ranked = []
    for order, (row, document) in enumerate(
        dict.fromkeys(zip((slots_K // sequence_length).tolist(), document_K.tolist(), strict=True))
    ):
        here = np.flatnonzero(document_BS[row] == document)
        own = slots_K[(slots_K // sequence_length == row) & (document_K == document)] % sequence_length
        pair = int(language_BS[row, here[0]]), int(language_BS[row, own[0]])
        ranked.append((len(here) > MOST_TOKENS, len(own) == 1, order, pair, (row, document)))
    seen: dict[tuple[int, int], int] = {}
    in_turn = []
    for *rank, pair, place in sorted(ranked):
        seen[pair] = seen.get(pair, 0) + 1
        in_turn.append((seen[pair], rank, place))
    return [place for *_, place in sorted(in_turn)[:EXAMPLES]]
