"""Our translation model beside transformers' EncoderDecoderModel with the same weights: training and decoding.

    OMP_NUM_THREADS=1 python benchmarks/translation.py --data DATA --text FILE [--sizes 3x256 2x128] [--steps 300]
                                                       [--batches 32 8] [--beams 1 4] [--repeats 5]

DATA is a folder of pairs (`python -m data_prep build`), FILE holds sentences of its first language. A model of each
size, layers x width, is trained for some steps first, so that targets end as those of a model that translates.

Training: forward and backward of the same pairs. Ours are rows of two halves, as in a run. The peer's batches have as many
pairs, in an order drawn at random, padded by transformers' DataCollatorForSeq2Seq; its loss is its own. Useful tokens are
those that are not padding, on both sides. No dropout. Told beside it, and not the measurement: the peer's batches grouped by
length, as with its Trainer's group_by_length, which here sees all pairs and not a window of them.

Decoding: the same sentences in the same batches, of about one length, with as many beams, each up to the longest length that
ours has. Sentences a second. Ours lays out its weights first, once for all batches; that counts.

Seconds are the processor's, of one thread. The two take turns, micro-batch by micro-batch and batch by batch; of each one
the best of the repeats counts, and the bests are added up. So what else runs on the machine disturbs as little as it can.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq
from transformers.utils import logging

from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.translation_folder import export_translation
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target
from ernie_m.models.packed import packed
from ernie_m.models.shape import ModelConfig
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.halves import halves_of
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule, StageConfig

CPU, PEER = torch.device("cpu"), "transformers"
Work = Callable[[], object]
Works = list[Work]
TARGETS = {"training": 2.0, "decoding": 1.5}
"""Ratios to the peer that are aimed at."""
Pair = tuple[list[int], list[int]]


def pairs_of(batch: PackedBatch[np.ndarray]) -> list[Pair]:
    """Ids of source and target of each pair, special tokens included."""
    pairs = []
    halves = halves_of(batch.input_ids_BS.shape[1])
    for ids_S, document_S in zip(batch.input_ids_BS, batch.document_BS, strict=True):
        sides = [(ids_S[half.start : half.stop], document_S[half.start : half.stop]) for half in halves]
        for document in range(int(document_S.max()) + 1):
            source, target = (ids[documents == document].tolist() for ids, documents in sides)
            pairs.append((source, target))
    return pairs


def request(batch: PackedBatch[Any]) -> LossRequest:
    return LossRequest(torch.full((len(LOSS_INDEX),), 1 / len(batch.labels_N)), num_metrics=1)


def train_first(model: TranslationModel, data: PretrainingData, steps: int, rows: int, rate: float) -> float:
    """Loss of the last step, nats a token."""
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=rate), torch.zeros(())
    for step in range(steps):
        (batch,) = data.step(step, 0, 1, rows)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / (0.1 * steps))
        optimizer.zero_grad()
        loss, _ = model(to_device(batch, CPU), request(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def training_sides(
    model: TranslationModel, peer: Any, tokenizer: Any, batches: Sequence[PackedBatch[np.ndarray]]
) -> tuple[dict[str, Works], int, float]:
    """(each side's works, one a micro-batch, useful tokens, share of the peer's positions that are real)."""
    pairs = [pair for batch in batches for pair in pairs_of(batch)]
    together = len(pairs) // len(batches)
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    at_random = np.random.default_rng(0).permutation(len(pairs)).tolist()

    def padded(order: Sequence[int]) -> list[dict[str, Any]]:
        examples = [
            {"input_ids": pairs[i][0], "labels": pairs[i][1][1:]} for i in order
        ]  # the class puts the start in front
        return [dict(collator(examples[at : at + together])) for at in range(0, len(examples), together)]

    drawn, grouped = padded(at_random), padded(sorted(at_random, key=lambda i: (len(pairs[i][0]), len(pairs[i][1]))))

    def ours(batch: PackedBatch[torch.Tensor]) -> None:
        model.zero_grad()
        model(batch, request(batch))[0].backward()

    def theirs(batch: dict[str, Any]) -> None:
        peer.zero_grad()
        peer(**batch).loss.backward()

    useful = sum(len(source) + len(target) for source, target in pairs)
    positions = sum(batch["input_ids"].numel() + batch["labels"].numel() + len(batch["labels"]) for batch in drawn)
    sides: dict[str, Works] = {"ours": [partial(ours, to_device(batch, CPU)) for batch in batches]}
    for side, padded_batches in ((PEER, drawn), (f"{PEER} grouped by length", grouped)):
        sides[side] = [partial(theirs, batch) for batch in padded_batches]
    return sides, useful, useful / positions


def decoding_sides(
    model: TranslationModel,
    peer: Any,
    tokenizer: Any,
    sources: Sequence[np.ndarray],
    languages: tuple[int, int],
    batch: int,
    beams: int,
) -> dict[str, Works]:
    """Each side's works, one a batch; before and behind ours is what it does once for all of them."""
    by_length = sorted(sources, key=len, reverse=True)
    parts = [by_length[at : at + batch] for at in range(0, len(by_length), batch)]
    specials = model.specials

    def ours(part: Sequence[np.ndarray]) -> None:
        searched(model, part, languages, [longest_target(len(source)) for source in part], Search(beams))

    def theirs(part: Sequence[np.ndarray]) -> None:
        ids = [{"input_ids": [specials.begin, *source.tolist(), specials.end]} for source in part]
        inputs = tokenizer.pad(ids, return_tensors="pt")
        most = longest_target(len(part[0]))
        peer.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=most)

    held = contextlib.ExitStack()
    ours_works: Works = [lambda: held.enter_context(packed(model)), *(partial(ours, part) for part in parts), held.close]
    return {"ours": ours_works, PEER: [partial(theirs, part) for part in parts]}


def seconds(sides: Mapping[str, Works], repeats: int) -> dict[str, float]:
    """Of each side: the best of each of its works, added up. Sides take turns, work by work."""
    best = {side: [np.inf] * len(works) for side, works in sides.items()}
    for _ in range(repeats):
        for number in range(max(map(len, sides.values()))):
            for side, works in sides.items():
                if number < len(works):
                    started = time.process_time()
                    works[number]()
                    best[side][number] = min(best[side][number], time.process_time() - started)
    return {side: sum(of_works) for side, of_works in best.items()}


def shown(what: str, amount: int, unit: str, took: dict[str, float]) -> str:
    speeds = ", ".join(f"{side} {amount / spent:,.0f} {unit}/s" for side, spent in took.items())
    ratio, target = took[PEER] / took["ours"], TARGETS[what.split(",")[0]]
    others = (f"{spent / took['ours']:.2f} to {side}" for side, spent in took.items() if side not in ("ours", PEER))
    verdict = f"ratio {ratio:.2f} (target {target:g}: {'met' if ratio >= target else 'missed'})"
    return ", ".join([f"{what}: {speeds}, {verdict}", *others])


def peer_of(
    model: TranslationModel, languages: Sequence[str], direction: tuple[str, str], vocabulary: AnyVocabulary
) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        export_translation(model, languages, direction, vocabulary.path, Path(folder))
        peer = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        return peer, AutoTokenizer.from_pretrained(folder)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["3x256"], help="layers x width")
    for name, default in (
        ("row", 256),
        ("rows", 8),
        ("steps", 300),
        ("measured_steps", 4),
        ("sentences", 128),
        ("repeats", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", nargs="+", type=int, default=[32])
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--only_decoding", action="store_true")
    return parser.parse_args()


def compared(chosen: argparse.Namespace, layers: int, width: int) -> None:
    folder = CorpusFolder(chosen.data)
    manifest, vocabulary = folder.manifest, open_vocabulary(folder.tokenizer_path)
    schedule = Schedule((StageConfig(steps=chosen.steps + chosen.measured_steps, rows={"MT": 1}),), chosen.rows)
    data = PretrainingData(folder, DataConfig(sequence_length=chosen.row), schedule, seed=0)
    shape: dict[str, Any] = {"num_layers": layers, "hidden_size": width, "num_heads": width // 64}
    shape |= {"ffn_size": 4 * width, "max_positions": chosen.row + 2, "dropout": 0.0, "language_embedding": "all"}
    config = ModelConfig(**shape, decoder="separate", initializer_range=0.04)
    model = TranslationModel(config.resolved(manifest.vocab_size, len(manifest.languages)), CPU, manifest.specials)
    loss = train_first(model.initialise(0), data, chosen.steps, chosen.rows, chosen.rate)
    print(
        f"{layers} layers x {width}, vocabulary {manifest.vocab_size:,}: {chosen.steps} steps, loss {loss:.2f}", flush=True
    )
    stream = folder.parallel()[0]
    direction: tuple[str, str] = (stream.languages[0], stream.languages[1])
    peer, tokenizer = peer_of(model, manifest.languages, direction, vocabulary)
    if not chosen.only_decoding:
        batches = [data.step(chosen.steps + i, 0, 1, chosen.rows)[0] for i in range(chosen.measured_steps)]
        sides, useful, real = training_sides(model, peer, tokenizer, batches)
        took = seconds(sides, chosen.repeats)
        print(shown("training", useful, "useful tokens", took), f"(peer: {100 * real:.0f} % real)", flush=True)
    lines = chosen.text.read_text(encoding="utf-8").split("\n")[: chosen.sentences]
    sources = [ids for ids in map(vocabulary.encode, lines) if 0 < len(ids) < chosen.row // 2]
    numbers = (folder.language_ids[direction[0]], folder.language_ids[direction[1]])
    for batch, beams in itertools.product(chosen.batches, chosen.beams):
        took = seconds(decoding_sides(model, peer, tokenizer, sources, numbers, batch, beams), chosen.repeats)
        print(shown(f"decoding, {beams} beams, batches of {batch}", len(sources), "sentences", took), flush=True)


def main() -> None:
    chosen = parsed()
    logging.set_verbosity_error()  # generate warns in each call that it has two longest lengths
    for size in chosen.sizes:
        compared(chosen, *map(int, size.split("x")))


if __name__ == "__main__":
    main()
