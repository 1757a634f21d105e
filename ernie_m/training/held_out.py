"""What is measured during training on text that is kept out of it.

An encoder: the cross-lingual gain on pairs. A model that translates: the loss of pairs in both directions; with BT in a
stage also that of round trips, of held-out lines of text; else of sentences of held-out pairs, else of trained lines; and
BLEU of files that the recipe names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder
from ernie_m.models.gain import cross_lingual_gain, gain_rows, held_out_pairs, some_examples
from ernie_m.models.held_out_translation import Rows, measured, pair_rows, round_trip_rows
from ernie_m.models.pretraining import AllAgree, PretrainingModel
from ernie_m.rows.batch import Example
from ernie_m.rows.dataloader import PretrainingData
from ernie_m.rows.packing import PackedRow
from ernie_m.rows.row_source import RowSettings
from ernie_m.runs.metrics import COPIED, GAIN, HELD_OUT_LOSS, ROUND_TRIP
from ernie_m.runs.ranks import Ranks
from ernie_m.training.held_out_bleu import bleu_of, directions_of, read_lines_of
from ernie_m.training.recipe import TrainingConfig

SHOWN = 4
"""Directions that the console names; of more it names the best and the worst."""
Poll = Callable[[], None]
Measurement = tuple[dict[str, float], str]
"""Values by their names in metrics.jsonl, and what the console says of them."""
Measure = Callable[[PretrainingModel, Ranks, Poll, AllAgree], Measurement]


def measures_of(
    config: TrainingConfig, data: PretrainingData, has_tokens: bool, tell: Callable[[str], None] | None
) -> list[Measure]:
    """What this run measures. `has_tokens`: whether the model predicts tokens. `tell`: for what cannot be measured."""
    if config.output.evaluate_every == 0 or not has_tokens:
        return []
    pairs = held_out_pairs(data.folder, config.output.held_out_pairs)
    settings = config.data.row_settings(data.folder.manifest.specials, config.seed)
    if config.model.translates:
        return _of_translation(config, data, pairs, settings)
    if len(pairs) < 2:
        return []
    try:
        return [partial(_gain, gain_rows(pairs, settings), settings)]
    except InputError as error:
        if tell:
            tell(f"cross-lingual gain: not measured ({error})")
        return []


def _gain(
    rows: Sequence[PackedRow],
    settings: RowSettings,
    model: PretrainingModel,
    ranks: Ranks,
    poll: Poll,
    all_agree: AllAgree,
) -> Measurement:
    gain = cross_lingual_gain(
        model,
        rows,
        settings.sequence_length,
        ranks.device,
        rank=ranks.rank,
        world_size=ranks.world_size,
        sum_over_ranks=ranks.sum,
        poll=poll,
    )
    told = (
        f"cross-lingual gain {gain.gain:+.3f} nats on held-out pairs "
        f"(shuffled {gain.nll_shuffled:.3f}, true {gain.nll_true:.3f}, {gain.num_predicted} masks)"
    )
    return {GAIN: gain.gain, f"{HELD_OUT_LOSS}/CAMLM": gain.nll_true}, told


def _of_translation(
    config: TrainingConfig, data: PretrainingData, pairs: Sequence[Example], settings: RowSettings
) -> list[Measure]:
    folder, limit = data.folder, config.output.held_out_pairs
    found = [("held-out loss", f"{HELD_OUT_LOSS}/MT", pair_rows(pairs, settings))]
    if "BT" in data.schedule.objectives and limit:
        texts = _texts(folder, pairs, limit)
        found.append(("round trip", ROUND_TRIP, round_trip_rows(texts, data.languages_written, settings)))
    names = {number: name for name, number in folder.language_ids.items()}
    measures: list[Measure] = [partial(_translation, *of_rows, names, settings) for of_rows in found if of_rows[-1].rows]
    if lines := bleu_lines(config, folder):
        vocabulary = open_vocabulary(folder.tokenizer_path)
        directions = directions_of(lines, folder.language_ids, vocabulary, settings)
        measures.append(partial(bleu_of, lines, directions, vocabulary, settings))
    return measures


def bleu_lines(config: TrainingConfig, folder: CorpusFolder) -> dict[str, list[str]]:
    """The lines that BLEU is measured on, of each language; none if the recipe names none. Raises InputError."""
    output = config.output
    return read_lines_of(output.bleu_text, folder.manifest.languages, output.bleu_pairs) if output.bleu_text else {}


def _texts(folder: CorpusFolder, pairs: Sequence[Example], limit: int) -> list[Example]:
    if streams := folder.monolingual(HELD_OUT):
        return some_examples(folder, streams, limit)
    sides = [Example((ids,), (own,)) for pair in pairs for ids, own in zip(pair.sentences, pair.languages, strict=True)]
    return sides[:limit] or some_examples(folder, folder.monolingual(), limit)


def _translation(
    told: str,
    key: str,
    rows: Rows,
    names: dict[int, str],
    settings: RowSettings,
    model: PretrainingModel,
    ranks: Ranks,
    poll: Poll,
    all_agree: AllAgree,
) -> Measurement:
    found = measured(
        model,
        rows,
        settings,
        ranks.device,
        rank=ranks.rank,
        world_size=ranks.world_size,
        sum_over_ranks=ranks.sum,
        poll=poll,
        all_agree=all_agree,
    )
    losses = {f"{names[source]}-{target}": loss for (source, to), loss in found.losses.items() if (target := names[to])}
    values = {key: found.loss, **{f"{key}/{direction}": loss for direction, loss in losses.items()}}
    shown = sorted(losses.items(), key=lambda item: item[1])
    shown = shown if len(shown) <= SHOWN else [shown[0], shown[-1]]
    line = f"{told} {found.loss:.3f} ({', '.join(f'{direction} {loss:.3f}' for direction, loss in shown)})"
    if found.copied is None:
        return values, line
    return values | {COPIED: found.copied}, f"{line}, {100 * found.copied:.0f} % copied"
