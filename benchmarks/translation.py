"""Our translation model beside transformers' EncoderDecoderModel with the same weights: training and decoding.

    OMP_NUM_THREADS=1 python benchmarks/translation.py --data DATA --text FILE [--steps 300] [--repeats 3]

DATA is a folder of pairs (`python -m data_prep build`), FILE holds sentences of its first language. The model is trained for
some steps first, so that targets end as those of a model that translates.

Training: forward and backward of the same pairs. Ours are rows of two halves, as in a run. The peer's batches have as many
pairs, in an order drawn at random, padded by transformers' DataCollatorForSeq2Seq; its loss is its own. Useful tokens are
those that are not padding, on both sides. No dropout. Told beside it, and not the measurement: the peer's batches grouped by
length, as with its Trainer's group_by_length, which here sees all pairs and not a window of them.

Decoding: the same sentences in the same batches, of about one length, with as many beams. Sentences a second.

Seconds are the processor's, of one thread. The two take turns; of the repeats each one's best counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.translation_folder import export_translation
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target
from ernie_m.models.shape import ModelConfig
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.halves import halves_of
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule, StageConfig

CPU, PEER = torch.device("cpu"), "transformers"
Work = Callable[[], None]
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
) -> tuple[dict[str, Work], int, float]:
    """(each side's work, useful tokens, share of the peer's positions that are real)."""
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
    ours_on_device = [to_device(batch, CPU) for batch in batches]

    def ours() -> None:
        model.zero_grad()
        for batch in ours_on_device:
            model(batch, request(batch))[0].backward()

    def theirs(batches: Sequence[dict[str, Any]]) -> None:
        peer.zero_grad()
        for batch in batches:
            peer(**batch).loss.backward()

    useful = sum(len(source) + len(target) for source, target in pairs)
    positions = sum(batch["input_ids"].numel() + batch["labels"].numel() + len(batch["labels"]) for batch in drawn)
    sides = {"ours": ours, PEER: partial(theirs, drawn), f"{PEER} grouped by length": partial(theirs, grouped)}
    return sides, useful, useful / positions


def decoding_sides(
    model: TranslationModel,
    peer: Any,
    tokenizer: Any,
    sources: Sequence[np.ndarray],
    languages: tuple[int, int],
    batch: int,
    beams: int,
) -> dict[str, Work]:
    by_length = sorted(sources, key=len, reverse=True)
    parts = [by_length[at : at + batch] for at in range(0, len(by_length), batch)]
    specials = model.specials

    def ours() -> None:
        for part in parts:
            searched(model, part, languages, [longest_target(len(source)) for source in part], Search(beams))

    def theirs() -> None:
        for part in parts:
            ids = [{"input_ids": [specials.begin, *source.tolist(), specials.end]} for source in part]
            inputs = tokenizer.pad(ids, return_tensors="pt")
            peer.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=longest_target(len(part[0])))

    return {"ours": ours, PEER: theirs}


def seconds(sides: dict[str, Work], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(sides, np.inf)
    for _ in range(repeats):
        for side, work in sides.items():
            started = time.process_time()
            work()
            best[side] = min(best[side], time.process_time() - started)
    return best


def shown(what: str, amount: int, unit: str, took: dict[str, float]) -> str:
    speeds = ", ".join(f"{side} {amount / spent:,.0f} {unit}/s" for side, spent in took.items())
    ratios = (f"{spent / took['ours']:.2f} to {side}" for side, spent in took.items() if side not in ("ours", PEER))
    return ", ".join([f"{what}: {speeds}, ratio {took[PEER] / took['ours']:.2f}", *ratios])


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
    for name, default in (("layers", 3), ("width", 256), ("row", 256), ("rows", 8), ("steps", 300), ("measured_steps", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("sentences", 128), ("batch", 32), ("beams", 4), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=1e-3)
    return parser.parse_args()


def main() -> None:
    chosen = parsed()
    folder = CorpusFolder(chosen.data)
    manifest, vocabulary = folder.manifest, open_vocabulary(folder.tokenizer_path)
    schedule = Schedule((StageConfig(steps=chosen.steps + chosen.measured_steps, rows={"MT": 1}),), chosen.rows)
    data = PretrainingData(folder, DataConfig(sequence_length=chosen.row), schedule, seed=0)
    shape: dict[str, Any] = {"num_layers": chosen.layers, "hidden_size": chosen.width, "num_heads": chosen.width // 64}
    shape |= {"ffn_size": 4 * chosen.width, "max_positions": chosen.row + 2, "dropout": 0.0, "language_embedding": "all"}
    config = ModelConfig(**shape, decoder="separate", initializer_range=0.04)
    model = TranslationModel(config.resolved(manifest.vocab_size, len(manifest.languages)), CPU, manifest.specials)
    loss = train_first(model.initialise(0), data, chosen.steps, chosen.rows, chosen.rate)
    print(
        f"{chosen.steps} steps, loss {loss:.2f}; vocabulary {manifest.vocab_size:,}, {chosen.layers} layers x {chosen.width}"
    )
    stream = folder.parallel()[0]
    direction: tuple[str, str] = (stream.languages[0], stream.languages[1])
    peer, tokenizer = peer_of(model, manifest.languages, direction, vocabulary)
    batches = [data.step(chosen.steps + i, 0, 1, chosen.rows)[0] for i in range(chosen.measured_steps)]
    sides, useful, real = training_sides(model, peer, tokenizer, batches)
    print(shown("training", useful, "useful tokens", seconds(sides, chosen.repeats)), f"(peer: {100 * real:.0f} % real)")
    lines = chosen.text.read_text(encoding="utf-8").split("\n")[: chosen.sentences]
    sources = [ids for ids in map(vocabulary.encode, lines) if 0 < len(ids) < chosen.row // 2]
    numbers = (folder.language_ids[direction[0]], folder.language_ids[direction[1]])
    for beams in sorted({1, chosen.beams}):
        works = decoding_sides(model, peer, tokenizer, sources, numbers, chosen.batch, beams)
        took = seconds(works, chosen.repeats)
        print(shown(f"decoding, {beams} beams, batches of {chosen.batch}", len(sources), "sentences", took))


if __name__ == "__main__":
    main()
