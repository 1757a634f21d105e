"""Measure an encoder, or a model that translates.

ernie-m evaluate retrieval --model HF_FOLDER_OR_HUB_ID --source FILE --target FILE [--layer K|all]
ernie-m evaluate alignment --model HF_FOLDER_OR_HUB_ID --gold FILE [--source FILE --target FILE] [--layer K|all]
ernie-m evaluate words --model HF_FOLDER_OR_HUB_ID (--data DATA | --dictionary FILE) [--size N]
ernie-m evaluate gain --run RUN [--data DATA]
ernie-m evaluate translation --source FILE --reference FILE[,FILE] --model RUN_OR_FOLDER --from fr --to en
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.commands import evaluate_translation

if TYPE_CHECKING:
    from torch import nn

    from ernie_m.corpus.word_links import Score
    from ernie_m.interop.encoder import OpenEncoder
    from ernie_m.models.tokenized import Tokenized


class Commands:
    """Measure a model: `retrieval`, `alignment` and `words` of any Hugging Face encoder, `gain` of a run, `translation`."""

    def retrieval(
        self,
        *,
        model: str,
        source: str,
        target: str,
        layer: int | str = "all",
        untrained: bool = True,
        output: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Accuracy@1 of finding each sentence's translation by cosine of mean-pooled hidden states, both ways.

        An untrained model of the same shape is measured beside it: shared digits, names and punctuation alone beat chance.

        Args:
            model: folder or hub id of any Hugging Face encoder (`ernie-m export` makes one)
            source: a sentence a line; .gz and .xz too, as all files of text
            target: their translations, line by line
            layer: 0 (embeddings) .. number of layers, or all
            untrained: also measure the same shape with random weights
            output: also write the figures to this JSON file
            trust_remote_code: run the Python code that the encoder's folder brings; without it such a folder is refused
        """
        from ernie_m.base.files import check_same_measures, write_json
        from ernie_m.corpus.aligned_files import read_aligned
        from ernie_m.interop.encoder import open_encoder
        from ernie_m.models.retrieval import accuracy_at_1, mean_pooled
        from ernie_m.models.tokenized import Tokenized
        from ernie_m.runs.ranks import this_device

        of = {"measure": "retrieval", "model": model, "source": source, "target": target, "layer": layer}
        check_same_measures(output, of, without=_left_out(untrained))
        sides = read_aligned(Path(source), Path(target))
        device = this_device()
        opened = open_encoder(model, trust_remote_code)
        layers = _layers(layer, opened.config.num_hidden_layers)
        encoders = _encoders(opened, untrained)
        texts = [Tokenized(opened.tokenizer, side) for side in sides]
        _tell_cut(texts)
        results: dict[str, dict[str, list[float]]] = {}
        for name, encoder in encoders.items():
            pooled = [mean_pooled(encoder, side, device, name) for side in texts]
            results[name] = {str(k): list(accuracy_at_1(pooled[0][k], pooled[1][k])) for k in layers}
        print(f"retrieval accuracy@1 over {len(sides[0])} pairs, mean-pooled, cosine (chance {100 / len(sides[0]):.1f} %)")
        header = "".join(f"  {name + ' ->':>12}  {name + ' <-':>12}" for name in results)
        print(f"layer{header}")
        for k in layers:
            cells = "".join(f"  {100 * value:>11.1f}%" for name in results for value in results[name][str(k)])
            print(f"{k:>5}{cells}")
        if output:
            write_json(Path(output), {"pairs": len(sides[0]), **of, **results})

    def alignment(
        self,
        *,
        model: str,
        gold: str,
        source: str | None = None,
        target: str | None = None,
        form: str = "auto",
        first_index: Annotated[int, Range(least=0, most=1, zero="counted from 0")] | None = None,
        layer: int | str = "all",
        untrained: bool = True,
        output: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Alignment error rate of the word links that a model's own states give, against gold.

        Two tokens are linked when each one's state is the other's nearest by cosine; two words when two of their tokens are.
        Each sentence is read alone. An untrained model of the same shape is measured beside it.

        Args:
            model: folder or hub id of any Hugging Face encoder (`ernie-m export` makes one)
            gold: links made by people: `source ||| target ||| 0-0 1p2` (or tabs), Pharaoh (0-0 1p2) or WPT lines
            source: the pairs' source sentences, words between spaces, a sentence a line; not where the gold has them
            target: their translations, line by line
            form: of the gold: auto, text, pharaoh or wpt
            first_index: what the gold counts from (default: 0, WPT 1)
            layer: 0 (embeddings) .. number of layers, or all
            untrained: also measure the same shape with random weights
            output: also write the figures to this JSON file
            trust_remote_code: run the Python code that the encoder's folder brings; without it such a folder is refused
        """
        from ernie_m.base.files import check_same_measures, write_json
        from ernie_m.corpus.gold_sets import gold_with_sentences
        from ernie_m.corpus.word_links import NO_SURE_LINKS
        from ernie_m.interop.encoder import open_encoder
        from ernie_m.models.state_alignment import TokenizedPairs, state_scores
        from ernie_m.runs.ranks import this_device

        of = {"measure": "alignment", "model": model, "gold": gold, "source": source, "target": target, "layer": layer}
        of |= {"form": form, "first_index": first_index}
        check_same_measures(output, of, without=_left_out(untrained))
        files = [None if side is None else Path(side) for side in (source, target)]
        known = gold_with_sentences(Path(gold), form, first_index, *files)
        opened = open_encoder(model, trust_remote_code)
        layers = _layers(layer, opened.config.num_hidden_layers)
        encoders = _encoders(opened, untrained)
        pairs = TokenizedPairs(opened.tokenizer, known.words)
        _tell_cut(pairs.sides)
        results = {
            name: state_scores(encoder, pairs, known.pairs, layers, this_device(), name)
            for name, encoder in encoders.items()
        }
        print(f"word links from the states of {len(known.pairs)} pairs: mutual nearest tokens by cosine")
        print(_table_of_links(results, layers))
        if not any(pair.sure for pair in known.pairs):
            print(f"note: {NO_SURE_LINKS}")
        if output:
            figures = {name: {k: vars(found) for k, found in scores.items()} for name, scores in results.items()}
            write_json(Path(output), {"pairs": len(known.pairs), **of, **figures})

    def words(
        self,
        *,
        model: str,
        data: str | None = None,
        dictionary: str | None = None,
        size: Annotated[int, Range(least=1, most=10**6)] = 1000,
        untrained: bool = True,
        output: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Accuracy@1 of finding a word's translation by cosine of static embeddings, both ways.

        The static embedding of a word is its row of the word embedding; of several pieces, their mean. Candidates are all
        words of the dictionary's other side. The dictionary of a data folder holds the words that its links join most often,
        without the 100 most frequent ones of each language (stop words) and without pairs that are spelt alike.

        Args:
            model: folder or hub id of any Hugging Face encoder (`ernie-m export` makes one)
            data: data folder with word links (`python -m data_prep align`), maybe of another tokenizer
            dictionary: instead, a file with a word and its translation a line (MUSE's form)
            size: pairs of words at most, of each pair of languages
            untrained: also measure the same shape with random weights
            output: also write the figures, and the dictionaries, to this JSON file
            trust_remote_code: run the Python code that the encoder's folder brings; without it such a folder is refused
        """
        from ernie_m.base.files import check_same_measures, write_json
        from ernie_m.base.table import table
        from ernie_m.corpus.folder import CorpusFolder
        from ernie_m.corpus.word_pairs import LEAST_LINKS, STOP_WORDS, dictionaries, read_dictionary
        from ernie_m.interop.encoder import open_encoder
        from ernie_m.models.word_translation import translations

        if (data is None) == (dictionary is None):
            raise InputError("words: give either --data, a folder with word links, or --dictionary, a file")
        of = {"measure": "words", "model": model, "data": data, "dictionary": dictionary, "size": size}
        check_same_measures(output, of, without=_left_out(untrained))
        opened = open_encoder(model, trust_remote_code)
        if data is not None:
            found = dictionaries(CorpusFolder(data), size)
        else:
            found = {Path(str(dictionary)).stem: read_dictionary(Path(str(dictionary)), size)}
        if not found:
            raise InputError(
                f"--data {data}: no two words that its links join {LEAST_LINKS} times or more, the {STOP_WORDS} most "
                "frequent ones of each language left out; expected more pairs, or give a --dictionary"
            )
        encoders = _encoders(opened, untrained)
        results = {name: translations(encoder, opened.tokenizer, found) for name, encoder in encoders.items()}
        print("word translation, accuracy@1 of static embeddings by cosine, among the words of the other side")
        shown = [
            [name, f"{of_pair['trained'].pairs:,}", *(f"{100 * way:.1f} %" for f in of_pair.values() for way in f.ways)]
            for name in found
            for of_pair in [{which: result[name] for which, result in results.items()}]
        ]
        print(table(["dictionary", "pairs", *(f"{name} {way}" for name in results for way in ("->", "<-"))], shown))
        if output:
            figures = {name: {pair: vars(f) for pair, f in result.items()} for name, result in results.items()}
            written = {name: list(zip(d.source, d.target, strict=True)) for name, d in found.items()}
            write_json(Path(output), {**of, **figures, "dictionaries": written})

    def gain(
        self,
        *,
        run: str,
        data: str | None = None,
        pairs: Annotated[int, Range(least=2, most=10**7)] = 1000,
        output: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Cross-lingual gain on held-out pairs: how much a true translation helps CAMLM against somebody else's, in nats.

        Args:
            run: run folder of a pre-training
            data: data folder with held-out pairs; default: the one the run was started on
            pairs: how many held-out pairs to use at most
            output: also write the figures to this JSON file
            checkpoint: which one, e.g. step_00001000, or 1000; default: the newest
        """

        from ernie_m.base.config import build
        from ernie_m.base.files import check_same_measures, write_json
        from ernie_m.base.run_files import CONFIG_FILE
        from ernie_m.corpus.folder import CorpusFolder
        from ernie_m.interop.build_model import trained_model
        from ernie_m.models.gain import cross_lingual_gain, gain_rows, held_out_pairs
        from ernie_m.rows.dataloader import DataConfig
        from ernie_m.runs.data_identity import tokenizer_of
        from ernie_m.runs.ranks import this_device
        from ernie_m.runs.run_folder import RunFolder

        of = {"measure": "gain", "run": run, "data": data, "checkpoint": checkpoint, "most_pairs": pairs}
        check_same_measures(output, of)
        configuration, chosen = RunFolder(Path(run)).read(checkpoint)
        folder = CorpusFolder(tokenizer_of(configuration, Path(data) if data else None).parent)
        data_config = build(DataConfig, configuration["data"], str(Path(run) / CONFIG_FILE), "data.")
        rows = gain_rows(held_out_pairs(folder, pairs), data_config.row_settings(folder.manifest.specials, seed=0))
        device = this_device()
        model = trained_model(Path(run), configuration, chosen, device, attention="auto")
        result = cross_lingual_gain(model.to(device), rows, data_config.sequence_length, device)
        print(
            f"cross-lingual gain at step {chosen.step}: {result.gain:+.4f} nats "
            f"(shuffled {result.nll_shuffled:.4f}, true {result.nll_true:.4f}, {result.num_predicted} masks)"
        )
        if output:
            write_json(Path(output), {**of, "step": chosen.step, **vars(result)})

    translation = evaluate_translation.translation


def _encoders(opened: OpenEncoder, untrained: bool) -> dict[str, nn.Module]:
    """The encoder and, if asked, its shape with random weights; prints what was chosen in opening it."""
    from transformers import AutoModel

    for choice in opened.choices:
        print(choice)
    return {"trained": opened.model(AutoModel), **({"untrained": opened.untrained()} if untrained else {})}


def _left_out(untrained: bool) -> list[str]:
    """The figures that are not measured."""
    return [] if untrained else ["untrained"]


def _tell_cut(sides: Sequence[Tokenized]) -> None:
    """Print how many of these sentences the encoder does not read to their ends: what is behind counts as not found."""
    if cut := sum(side.num_cut for side in sides):
        count, longest = sum(map(len, sides)), sides[0].longest
        print(f"note: {cut:,} of {count:,} sentences are longer than {longest} tokens; their ends are not read")


def _layers(layer: int | str, num_layers: int) -> Sequence[int]:
    if layer != "all" and not (isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer <= num_layers):
        raise InputError(f"--layer {layer}: expected 0 .. {num_layers} or all")
    return range(num_layers + 1) if layer == "all" else [int(layer)]


def _table_of_links(results: Mapping[str, Mapping[str, Score]], layers: Sequence[int]) -> str:
    """A row for each layer: error rate, precision and recall of each encoder, in percent."""
    from ernie_m.base.table import table

    head = [f"{name} {what}" for name in results for what in ("AER", "precision", "recall")]
    rows = []
    for k in layers:
        rows.append([f"{k}", *(cell for of_layer in results.values() for cell in of_layer[str(k)].cells)])
    return table(["layer", *head], rows)


def main(called: str = "ernie-m evaluate") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(Commands, called)


if __name__ == "__main__":
    main()
