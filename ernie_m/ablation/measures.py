"""The measures of a comparison. Every run gets the same pairs and the same masks.

*Masked perplexity* on held-out pairs: exp of the mean nll of masked tokens, under three attention rules: each sentence alone
(MMLM), both sentences visible (TLM), only the translation visible (CAMLM). A run that was not trained on an objective is
measured under its rule too: the rule only decides who reads whom, and needs no weights of its own.

*Cross-lingual gain*: ernie_m.models.gain. *Retrieval*: ernie_m.models.retrieval. *State AER*, error rate of the links of a
model's states: ernie_m.models.state_alignment.
*Held-out retrieval*: the same of pairs of the training data's domain, with English and between other languages; plain, and
*centred*, with the mean of each side's sentences subtracted (what a language's sentences have in common).
*Word translation*, where the data has word links: ernie_m.models.word_translation, over the dictionary of these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree
from ernie_m.base.sampling import key_of
from ernie_m.corpus.aligned_files import AlignedFiles, aligned_files, read_aligned
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.gold_sets import GoldSet
from ernie_m.corpus.word_pairs import Dictionary, dictionaries
from ernie_m.models.gain import cross_lingual_gain, gain_rows, in_rows
from ernie_m.models.pretraining import without_training
from ernie_m.models.retrieval import accuracy_at_1, mean_pooled
from ernie_m.models.state_alignment import TokenizedPairs, state_scores
from ernie_m.models.tokenized import Tokenized
from ernie_m.models.word_translation import translations
from ernie_m.rows.batch import Example, LossRequest
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.objectives import LOSS_INDEX, OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings

RULES = ("MMLM", "TLM", "CAMLM")
EVALUATION_SEED = 0
ROWS_AT_A_TIME = 8
FEWEST_HELD_OUT = 50
"""Lines of two held-out files below which retrieval among them says nothing."""


def check_sets(held_out: Path | None, tatoeba: Path | None, languages: Collection[str]) -> None:
    """Raise InputError for folders of which nothing could be measured in `languages`: before hours of training."""
    if held_out is not None:
        for files in files_with_english(held_out, languages):
            read_aligned(*files.paths)
    if tatoeba is not None:
        for paths in tatoeba_files(tatoeba, languages).values():
            read_aligned(*paths)


def files_with_english(folder: Path, languages: Collection[str]) -> list[AlignedFiles]:
    """Those of `aligned_files` that have English on one side. Raises InputError when there is none."""
    found = [files for files in aligned_files(folder, languages) if "en" in files.languages]
    if not found:
        raise _no_pairs(folder, languages)
    return found


def _no_pairs(folder: Path, languages: Collection[str]) -> InputError:
    known = ", ".join(sorted(languages))
    return InputError(f"{folder}: no held-out pairs XX-en.XX and XX-en.en in languages of the run ({known})")


def tatoeba_files(folder: Path, languages: Collection[str]) -> dict[str, tuple[Path, Path]]:
    """Language -> `tatoeba.LLL-eng.LLL` and `.eng` of those files of a folder that are in one of `languages`.

    Raises InputError when there is none, or two of one language.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for source in sorted(folder.glob("tatoeba.*-eng.*")):
        code = source.name.split(".")[1].removesuffix("-eng")
        language = next((known for known in languages if agree(code, known)), None)  # LASER says bre and cmn, we br and zh
        if source.suffix != f".{code}" or language is None:
            continue
        if language in found:
            raise InputError(f"{source}: a second set in {language}, whose scores would be mixed; keep one of them there")
        found[language] = source, source.with_suffix(".eng")
    if not found:
        raise InputError(f"{folder}: no tatoeba.LLL-eng files in languages of the run ({', '.join(languages)})")
    return found


def read_held_out(folder: Path, vocabulary: AnyVocabulary, language_ids: dict[str, int], limit: int) -> list[Example]:
    """The first `limit` pairs with English of each two files of a folder whose languages the run knows, encoded.

    Raises InputError when there is none.
    """
    pairs = []
    for files in files_with_english(folder, language_ids):
        order = sorted((0, 1), key=lambda side: files.languages[side] == "en")  # English last
        sides = read_aligned(*files.paths)
        encoded = [[vocabulary.encode(text) for text in sides[side][:limit]] for side in order]
        ids_of = tuple(language_ids[files.languages[side]] for side in order)
        pairs += [Example(ids, ids_of) for ids in zip(*encoded, strict=True) if all(map(len, ids))]
    if not pairs:
        raise _no_pairs(folder, language_ids)
    return pairs


def perplexity_rows(rule: str, pairs: Sequence[Example], settings: RowSettings) -> list[PackedRow]:
    """Rows of an objective made of held-out pairs, every sentence once; its masks follow from the pair's number."""
    objective, number = OBJECTIVES[rule], OBJECTIVE_INDEX[rule]
    layout = settings.layout(objective)
    documents = []
    for i, pair in enumerate(pairs):
        parts = [pair] if objective.num_given == 2 else _sides(pair)
        for side, part in enumerate(parts):
            if int(layout.length(*map(len, part.sentences))) <= settings.document_positions:
                key = key_of(settings.seed, "perplexity", rule, i, side)
                documents.append(layout.lay_out(part, key))
    if not documents:
        raise InputError(
            f"none of {len(pairs)} held-out pairs fits the {settings.document_positions} positions of a document, which "
            f"{rule} lays it out in; expected shorter sentences, or a larger data.sequence_length"
        )
    return [PackedRow(row, number, 0) for row in in_rows(documents, settings.sequence_length)]


def _sides(pair: Example) -> list[Example]:
    return [Example((s,), (k,)) for s, k in zip(pair.sentences, pair.languages, strict=True)]


def perplexity(model: nn.Module, rows: Sequence[PackedRow], sequence_length: int, device: torch.device) -> float:
    """exp of the mean nll over all predicted tokens of `rows`."""
    request = LossRequest(torch.zeros(len(LOSS_INDEX), device=device), num_metrics=1)
    total, count = 0.0, 0
    with without_training(model):
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            batch = to_device(pack(rows[start : start + ROWS_AT_A_TIME], sequence_length), device)
            _, nll_M = model(batch, request)
            total, count = total + float(nll_M.sum()), count + len(batch.labels_N)
    return math.exp(total / count)


def measured_on_pairs(
    model: nn.Module, pairs: Sequence[Example], settings: RowSettings, device: torch.device
) -> dict[str, float]:
    """{'perplexity/MMLM', 'perplexity/TLM', 'perplexity/CAMLM', 'gain'} of a model on held-out pairs in such rows."""
    model.to(device)
    sequence_length, result = settings.sequence_length, {}
    for rule in RULES:
        rows = perplexity_rows(rule, pairs, settings)
        result[f"perplexity/{rule}"] = perplexity(model, rows, sequence_length, device)
    rows = gain_rows(pairs, settings)
    return result | {"gain": cross_lingual_gain(model, rows, sequence_length, device).gain}


def measured_by_retrieval(
    encoder: nn.Module, tokenizer: Any, folder: Path, languages: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tatoeba accuracy@1 of a Hugging Face encoder, each way, in every layer: {language: {layer: [to en, from en]}};
    plain, and with the mean of each side's sentences subtracted. Of the files that `tatoeba_files` finds.
    """
    device = next(encoder.parameters()).device
    result: dict[str, dict[str, list[float]]] = {}
    centred: dict[str, dict[str, list[float]]] = {}
    for language, paths in tatoeba_files(folder, languages).items():
        sides = read_aligned(*paths)
        source_LND, target_LND = (mean_pooled(encoder, Tokenized(tokenizer, side), device, language) for side in sides)
        for into, shifts in ((result, (0, 0)), (centred, (source_LND.mean(1, True), target_LND.mean(1, True)))):
            layers = enumerate(zip(source_LND - shifts[0], target_LND - shifts[1], strict=True))
            into[language] = {str(layer): list(accuracy_at_1(*states)) for layer, states in layers}
    return result, centred


def measured_by_held_out(
    encoder: nn.Module, tokenizer: Any, folder: Path, languages: Sequence[str], limit: int
) -> dict[str, Any]:
    """Retrieval among the first `limit` lines of each two held-out files: {set: {pair: {layer: [there, back]}}}.

    The sets are pairs with English and others, plain and centred. A sentence of several files is encoded once.
    """
    device = next(encoder.parameters()).device
    read = [(f, [side[:limit] for side in read_aligned(*f.paths)]) for f in aligned_files(folder, languages)]
    of_language: dict[str, dict[str, int]] = {}
    for files, sides in read:
        for code, side in zip(files.languages, sides, strict=True):
            numbers = of_language.setdefault(code, {})
            for text in side:
                numbers.setdefault(text, len(numbers))
    states = {
        code: mean_pooled(encoder, Tokenized(tokenizer, [*known]), device, code) for code, known in of_language.items()
    }
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    for files, sides in read:
        if min(map(len, sides)) < FEWEST_HELD_OUT:
            continue
        both = [
            states[code][:, [of_language[code][text] for text in side]]
            for code, side in zip(files.languages, sides, strict=True)
        ]
        name = "held out, en" if "en" in files.languages else "held out, others"
        for title, (first, second) in ((name, both), (f"{name}, centred", [side - side.mean(1, True) for side in both])):
            layers = enumerate(zip(first, second, strict=True))
            of_pair = {str(layer): list(accuracy_at_1(*of)) for layer, of in layers}
            result.setdefault(title, {})[files.name] = of_pair
    return result


def dictionaries_of(data: Path) -> dict[str, Dictionary]:
    """The dictionaries of a data folder; none where its pairs have no word links."""
    folder = CorpusFolder(data)
    return dictionaries(folder) if LINKS.name in folder.manifest.columns else {}


def measured_by_words(encoder: nn.Module, tokenizer: Any, of: Mapping[str, Dictionary]) -> dict[str, Any]:
    """Word translation by static embeddings: {pair of languages: {"pairs", "to_target", "to_source"}}, accuracies 0 to 1."""
    return {name: vars(found) for name, found in translations(encoder, tokenizer, of).items()}


def measured_by_links(encoder: nn.Module, tokenizer: Any, gold: Mapping[str, GoldSet]) -> dict[str, dict[str, float]]:
    """Alignment error rate of the links of each layer's states, 0 to 1: {set: {layer: rate}}."""
    device = next(encoder.parameters()).device
    layers = range(encoder.config.num_hidden_layers + 1)  # type: ignore[union-attr, operator]
    found = {}
    for name, of in gold.items():
        scores = state_scores(encoder, TokenizedPairs(tokenizer, of.words), of.pairs, layers, device, name)
        found[name] = {layer: score.aer for layer, score in scores.items()}
    return found
