"""`ernie-m evaluate translation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import listed
from ernie_m.base.console import InputError
from ernie_m.commands.translate import BATCH_TOKENS, BEAMS, PENALTY, search_of


def translation(
    self: object,
    *,
    source: str,
    reference: str,
    model: str | None = None,
    hypothesis: str | None = None,
    from_: str | None = None,
    to: str | None = None,
    beams: Annotated[int, BEAMS] | None = None,
    length_penalty: Annotated[float, PENALTY] | None = None,
    batch_tokens: Annotated[int, BATCH_TOKENS] | None = None,
    data: str | None = None,
    checkpoint: str | None = None,
    output: str | None = None,
) -> None:
    """BLEU and chrF (sacrebleu, raw text) of a model's translations, or of a file of them, beside the source copied.

    Args:
        source: a sentence a line; .gz and .xz too, as all files of text
        reference: their translations by people, line by line; several files with commas between
        model: run folder of a training on MT, or what `ernie-m export` made of it
        hypothesis: a file of translations, in place of a model
        from_: language of the source; a folder knows its own
        to: language of the references; a folder knows its own
        beams: width of the search; default: 1, greedy
        length_penalty: with beams, exponent of a translation's length, by which the sum of its log probabilities is
            divided; default: 1
        batch_tokens: tokens of the sentences that are translated together, padding and beams included; default: 4096
        data: data folder of the run, for its tokenizer; default: the one it was started on
        checkpoint: of the run, e.g. step_00001000, 1000 or best; default: the newest
        output: also write the figures to this JSON file
    """
    from ernie_m.base.files import check_same_measures, write_json
    from ernie_m.base.table import table
    from ernie_m.corpus.aligned_files import read_parallel
    from ernie_m.interop.open_translator import open_translator
    from ernie_m.runs.ranks import this_device
    from ernie_m.translation.lines import BATCH, Translator
    from ernie_m.translation.scores import require_sacrebleu, scores

    if (model is None) == (hypothesis is None):
        raise InputError("--model: give a model to translate with, or a file of translations as --hypothesis, not both")
    require_sacrebleu()
    how = {"from": from_, "checkpoint": checkpoint, "beams": beams, "length_penalty": length_penalty}
    for key, value in {**how, "data": data, "batch_tokens": batch_tokens}.items():
        if hypothesis is not None and value is not None:
            raise InputError(f"--{key} {value}: of a model that translates, and --hypothesis is a file; leave it out")
    named = {"source": source, "reference": reference, "model": model, "hypothesis": hypothesis, "to": to}
    of = {"measure": "translation", **named, **how}
    check_same_measures(output, of)
    search = search_of(beams or 1, length_penalty)
    texts = [Path(name) for name in listed("reference", reference, "a file, or several with commas between")]
    files = [Path(source), *texts, *([Path(hypothesis)] if hypothesis else [])]
    lines, *others = read_parallel(files)
    references = others[:-1] if hypothesis else others
    found, target = others[-1], to
    if model is not None:
        opened = open_translator(model, data, checkpoint, this_device())
        numbers, target = opened.numbers(from_, to), to or (opened.direction or (None, None))[1]
        batch = batch_tokens or BATCH
        found = Translator(opened.model, opened.vocabulary, numbers, opened.positions, batch, search).lines(lines)
    results = {"translated": scores(found, references, target), "source copied": scores(lines, references, target)}
    print(f"{len(lines):,} sentences, {len(references)} references each")
    print(table(["", "BLEU", "chrF"], [[name, *score.cells] for name, score in results.items()]))
    print(f"{results['translated'].bleu_signature}\n{results['translated'].chrf_signature}")
    if output:
        write_json(Path(output), {**of, "sentences": len(lines), **{name: vars(s) for name, s in results.items()}})
