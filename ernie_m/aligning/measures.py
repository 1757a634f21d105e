"""What an encoder finds: retrieval among held-out pairs and among pairs of other languages, and the cross-lingual gain.

Sentences are token ids of the encoder's own tokenizer, exactly as training reads them; they are pooled as the encoder is
used. A pair of which one side occurs more than once in the set is left out: nobody could tell which one is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.aligned_files import AlignedFiles, aligned_files, read_aligned
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.gold_sets import GoldSet
from ernie_m.interop.backbone_folder import open_backbone
from ernie_m.interop.build_model import architecture_of
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.start_weights import Target
from ernie_m.models.gain import cross_lingual_gain, gain_rows, held_out_pairs
from ernie_m.models.retrieval import Pool, accuracy_at_1, first_token, mean_over_tokens, pooled_ids
from ernie_m.models.shape import BackboneConfig, Pooling
from ernie_m.models.state_alignment import TokenizedPairs, state_scores
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.row_source import RowSettings
from ernie_m.runs.ranks import Voters, this_device

MOST_PAIRS = 1000  # of a set
LEAST_PAIRS = 20  # that say something of the words of a language
GAIN_ROW = 512
SEED = 0  # of the masks of gain
POOLS: dict[Pooling, Pool] = {"mean": mean_over_tokens, "first": first_token}

Pair = tuple[np.ndarray, np.ndarray]


def held_out_sets(folder: CorpusFolder) -> dict[str, list[Pair]]:
    """Held-out pairs of each language pair of the data."""
    names = {number: name for name, number in folder.language_ids.items()}
    found: dict[str, list[Pair]] = {}
    for example in held_out_pairs(folder, MOST_PAIRS * max(1, len(folder.parallel()))):
        name = "-".join(names[number] for number in example.languages)
        found.setdefault(name, []).append((example.sentences[0], example.sentences[1]))
    return found


def watched_files(watch: Path) -> list[AlignedFiles]:
    """A folder's pairs of files. Raises InputError where there are none, and for sides that do not go together."""
    found = aligned_files(watch)
    if not found:
        raise InputError(f"--watch {watch}: no pairs there; expected line-aligned files such as tatoeba.de-en.de and .en")
    for files in found:
        read_aligned(*files.paths)
    return found


def watched_sets(watch: Path, vocabulary: AnyVocabulary) -> dict[str, list[Pair]]:
    """Pairs of each of a folder's pairs of files."""
    found = {}
    for files in watched_files(watch):
        sides = [vocabulary.encode_batch(side[: 2 * MOST_PAIRS]) for side in read_aligned(*files.paths)]
        texts = [np.split(side.values, side.offsets[1:-1]) for side in sides]
        found[files.name] = list(zip(*texts, strict=True))
    return found


def shared_words(sets: Mapping[str, Sequence[Pair]], vocabulary: AnyVocabulary) -> dict[str, float]:
    """Of each set with LEAST_PAIRS: the share of running words that both sides have, names too; numbers do not count."""
    shares = {}
    for name, pairs in sets.items():
        if len(pairs) >= LEAST_PAIRS:
            texts = ((vocabulary.decode(text).casefold() for text in side) for side in zip(*pairs, strict=True))
            source, target = (Counter(w for text in side for w in text.split() if w.isalpha()) for side in texts)
            shares[name] = (source & target).total() / max(1, min(source.total(), target.total()))
    return shares


def distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The first MOST_PAIRS whose sides occur once each and have text."""
    keys = [[side.tobytes() for side in pair] for pair in pairs]
    counts = [Counter(column) for column in zip(*keys, strict=True)]
    alone = [all(count[key] == 1 and key for count, key in zip(counts, of_pair, strict=True)) for of_pair in keys]
    return [pair for pair, is_alone in zip(pairs, alone, strict=True) if is_alone][:MOST_PAIRS]


def retrieval(
    model: str, sets: Mapping[str, Sequence[Pair]], specials: Specials, pooling: Pooling, longest: int, note: str
) -> dict[str, Any]:
    """Of each set: accuracy@1 of every layer in percent, both ways, plain and centred; the cosine of what is unrelated."""
    device, encoder = this_device(), open_encoder(model).model(AutoModel)

    def vectors(texts: Sequence[np.ndarray], where: str) -> Tensor:
        whole = [as_read(text, specials, longest) for text in texts]
        return pooled_ids(encoder, whole, specials.pad, POOLS[pooling], device, where)

    found = {}
    known = {name: alone for name, pairs in sets.items() if (alone := distinct(pairs))}
    for number, (name, pairs) in enumerate(known.items(), start=1):
        where = f"{name} ({note}, {number} of {len(known)})"
        found[name] = {"pairs": len(pairs), **figures(*(vectors(side, where) for side in zip(*pairs, strict=True)))}
    return found


def figures(source_LND: Tensor, target_LND: Tensor) -> dict[str, Any]:
    """The figures of one set, of vectors of every layer, embeddings first."""
    layers = [percent(a, b) for a, b in zip(source_LND, target_LND, strict=True)]
    centred = [side - side.mean(dim=1, keepdim=True) for side in (source_LND, target_LND)]
    unrelated = [unrelated_cosine(a, b) for a, b in zip(source_LND, target_LND, strict=True)]
    return {"layers": layers, "centred": [percent(a, b) for a, b in zip(*centred, strict=True)], "unrelated": unrelated}


def percent(source_ND: Tensor, target_ND: Tensor) -> list[float]:
    """Accuracy@1, source -> target and back, in percent."""
    return [100 * share for share in accuracy_at_1(source_ND, target_ND)]


def unrelated_cosine(source_ND: Tensor, target_ND: Tensor) -> float:
    """Mean cosine of a sentence and what does not translate it."""
    count = len(source_ND)
    if count < 2:
        return float("nan")
    source_ND, target_ND = (F.normalize(side.double(), dim=1) for side in (source_ND, target_ND))
    total = float(source_ND.sum(dim=0) @ target_ND.sum(dim=0)) - float((source_ND * target_ND).sum())
    return total / (count * (count - 1))


def links(model: str, gold: Mapping[str, GoldSet], note: str) -> dict[str, list[float]]:
    """Of each gold set: alignment error rate of the links of every layer's states, embeddings first, in percent."""
    if not gold:
        return {}
    opened, device = open_encoder(model), this_device()
    encoder = opened.model(AutoModel)
    layers = range(encoder.config.num_hidden_layers + 1)
    found = {}
    for name, of in gold.items():
        pairs = TokenizedPairs(opened.tokenizer, of.words)
        scores = state_scores(encoder, pairs, of.pairs, layers, device, f"{name} ({note})")
        found[name] = [100 * score.aer for score in scores.values()]
    return found


def gain(model: str, folder: CorpusFolder, longest: int) -> float | None:
    """Cross-lingual gain on held-out pairs, nats a mask; None for an encoder without a head of masked words, or pairs."""
    if not open_backbone(model).has_head:
        return None
    manifest = folder.manifest
    try:
        settings = RowSettings(GAIN_ROW, manifest.specials, CorruptionConfig(), SEED, longest)
        rows = gain_rows(held_out_pairs(folder, MOST_PAIRS), settings)
    except InputError:
        return None
    device = this_device()
    architecture = architecture_of(BackboneConfig(backbone=model), manifest.specials, len(manifest.languages))
    target = Target.of(architecture.config, folder.folder, manifest)
    encoder = architecture.step_zero(SEED, target, Voters(0, 1), device).model
    return cross_lingual_gain(encoder.to(device), rows, GAIN_ROW, device).gain


def as_read(text: np.ndarray, specials: Specials, longest: int) -> np.ndarray:
    """Ids as the encoder reads them: what begins a text in front, what ends it behind; cut to `longest`."""
    front = [] if specials.begin is None else [specials.begin]
    return np.concatenate([front, text[: longest - len(front) - 1], [specials.end]]).astype(np.int64)
