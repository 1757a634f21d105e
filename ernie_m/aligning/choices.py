"""What an encoder is trained on, for how long, and why: a recipe with nothing left open.

1. `look_at`: is it a sentence encoder, does it predict masked words, how are its sentences pooled?
2. `recipe_for`: by what it is, one of the recipes align_sentences, align, align_text, unless another is asked for.
3. `filled`: what the recipe leaves out follows from encoder and data: rows, the longest document, rows a step.
4. `timed`: the steps, from passes over the pairs and, where minutes are given, from the seconds that a step takes here. They
   then stand in the recipe, and all that follows from it can be done again.

Whatever the user gives as key=value stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.base.config import build, merge_overrides, read_recipe
from ernie_m.base.console import Choice, InputError
from ernie_m.base.files import read_json
from ernie_m.base.sampling import apportion
from ernie_m.base.shipped import recipe_path
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.backbone_folder import open_backbone
from ernie_m.interop.foreign import sketch_of
from ernie_m.interop.weight_files import MODULES_FILE
from ernie_m.models.shape import BackboneConfig, Pooling
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import DataConfig
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import SENTENCE, TOKEN
from ernie_m.rows.objectives import OBJECTIVES, heads_of
from ernie_m.rows.row_source import RowSource
from ernie_m.rows.schedule import HEADS_PART, Schedule, StageConfig
from ernie_m.training.recipe import TrainingConfig, total_steps

SENTENCES, WORDS, WORDS_AND_TEXT = "align_sentences", "align", "align_text"
PAIRS_IN_A_ROW = 64  # of which each is told from the others
LENGTHS = (256, 4096)  # of rows of sentences
LENGTH_OF_WORDS = 512
LONGEST_DOCUMENT = 256
NEW_HEAD_RATE = 2e-5  # of an encoder whose head of masked words is new
NEW_HEAD_STEPS = 0.25  # of all steps, with the encoder left as it is
WARMUP = 0.1  # of all steps
ALIKE = 0.3  # share of running words on both sides that asks whether it is one language
KEPT = 0.3  # share of the start in an aligned sentence encoder (docs/align.md has the figures)


@dataclass(frozen=True)
class Encoder:
    """What `--model` is."""

    name: str
    folder: Path
    predicts_words: bool
    is_sentence_encoder: bool
    pooling: Choice
    """mean or first."""
    longest_document: int

    @property
    def pools(self) -> Pooling:
        """The pooling that it is trained and measured in."""
        return "mean" if self.pooling.value == "mean" else "first"


def look_at(model: str, pooling: str | None) -> Encoder:
    """What the encoder of a folder or hub id is. Raises InputError for what cannot be trained, and for another pooling."""
    backbone, sketch = open_backbone(model), sketch_of(BackboneConfig(backbone=model))
    modules = backbone.folder / MODULES_FILE
    chosen = Choice("pooling", pooling, "asked for") if pooling else _pooling_of(modules)
    if chosen.value not in ("mean", "first"):
        where = f"--pooling {pooling}" if pooling else f"{model}: its pooling is {chosen.value} ({chosen.reason}); --pooling"
        raise InputError(f"{where}: expected mean or first")
    longest = min(sketch.longest_document or LONGEST_DOCUMENT, LONGEST_DOCUMENT)
    return Encoder(model, backbone.folder, backbone.has_head, modules.is_file(), chosen, longest)


def _pooling_of(modules: Path) -> Choice:
    """As sentence-transformers would pool it."""
    if not modules.is_file():
        return Choice("pooling", "mean", f"no {modules.name}; sentence-transformers takes the mean then")
    old = {"pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}
    try:
        listed = read_json(modules)
        paths = [modules.parent / of["path"] / "config.json" for of in listed if of["type"].endswith("Pooling")]
        if not paths[0].parent.resolve().is_relative_to(modules.parent.resolve()):
            raise ValueError(f"{paths[0]} lies outside of the folder")
        content = read_json(paths[0])
        said = [old.get(key, key) for key, value in content.items() if key.startswith("pooling_mode_") and value is True]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"{modules}: its pooling cannot be read ({error}); give --pooling mean or first") from None
    where = f"{paths[0].parent.name}/config.json"
    value = "+".join(said) or str(content.get("pooling_mode"))
    return Choice("pooling", {"cls": "first"}.get(value, value), where)


def recipe_for(encoder: Encoder, recipe: str | None, has_text: bool) -> Choice:
    """Which recipe, and why."""
    if recipe:
        return Choice("recipe", recipe, "asked for")
    if encoder.is_sentence_encoder or not encoder.predicts_words:
        why = f"it has {MODULES_FILE}" if encoder.is_sentence_encoder else "it has no head of masked words"
        return Choice("recipe", SENTENCES, f"a sentence encoder: {why}; a head that knows nothing would harm it")
    why = "it predicts masked words"
    return Choice("recipe", WORDS_AND_TEXT if has_text else WORDS, f"{why}, with text" if has_text else why)


def _stages(recipe: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[StageConfig]]:
    """(A recipe's content, with overrides; its stages)."""
    content = merge_overrides(read_recipe(recipe_path(recipe)), overrides)
    return content, [build(StageConfig, s, recipe, f"stages[{n}].") for n, s in enumerate(content.get("stages") or [])]


def check_masks(recipe: str, overrides: Sequence[str], specials: Specials) -> None:
    """Raise InputError for objectives with masks where the tokenizer has none."""
    for name in (name for stage in _stages(recipe, overrides)[1] for name in stage.rows):
        Layout(OBJECTIVES[name], CorruptionConfig(), specials)


def filled(
    encoder: Encoder, recipe: str, folder: CorpusFolder, overrides: Sequence[str], num_ranks: int
) -> tuple[dict[str, Any], list[Choice]]:
    """The recipe's content with all but the steps decided, and what was decided.

    Raises InputError for overrides that are none, and for a recipe that does not train pairs.
    """
    content, stages = _stages(recipe, overrides)
    if not any(OBJECTIVES[name].num_given == 2 for stage in stages for name in stage.rows):
        raise InputError(f"{recipe}: none of its stages reads pairs; expected e.g. stages=[{{steps: 1, rows: {{XLCO: 1}}}}]")
    heads = heads_of({name for stage in stages for name in stage.rows})
    choices: list[Choice] = []

    def fill(section: str, key: str, value: Any, reason: str = "") -> None:
        into = content.setdefault(section, {})
        if into.get(key) is None:
            into[key] = value
            choices.extend([Choice(f"{section}.{key}", f"{value}", reason)] if reason else [])

    if folder.monolingual() and all(OBJECTIVES[name].num_given == 2 for stage in stages for name in stage.rows):
        choices.append(Choice("text", "not read", "the recipe has no objective for single sentences (MMLM, BTMLM)"))
    fill("model", "backbone", encoder.name)
    if SENTENCE in heads:
        fill("model", "pooling", encoder.pools, encoder.pooling.reason)
    fill("model", "dropout", 0.0)
    length, reason = _row_length(folder, SENTENCE in heads)
    fill("data", "sequence_length", length, reason)
    fill("data", "longest_document", min(encoder.longest_document, content["data"]["sequence_length"]))
    rows = max(num_ranks, max(len(stage.rows) for stage in stages))
    rows = -(-rows // num_ranks) * num_ranks
    fill("batch", "rows_per_step", rows, f"{num_ranks} rank{'s' * (num_ranks > 1)}")
    fill("batch", "micro_batch_rows", 1)
    are_given = any(given.startswith("stages=") for given in overrides)
    if TOKEN in heads and not encoder.predicts_words and not are_given:
        content["stages"] = _head_first(content["stages"])
        choices.append(Choice("stages", "the head first", "it is new, and would send noise into the encoder"))
        content.setdefault("optimizer", {})["peak_learning_rate"] = NEW_HEAD_RATE
        content = merge_overrides(content, overrides)
    config = build(TrainingConfig, closed(content), recipe)
    Schedule(config.stages, config.batch.rows_per_step)  # refused as in training
    return content, choices


def _head_first(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A stage in front that trains heads alone, on the first one's rows: a quarter of all steps."""
    total = sum(stage["steps"] for stage in stages)
    rest = round(1 / NEW_HEAD_STEPS) - 1
    return [{**stages[0], "steps": total, "train": [HEADS_PART]}, *({**s, "steps": rest * s["steps"]} for s in stages)]


def _row_length(folder: CorpusFolder, is_of_sentences: bool) -> tuple[int, str]:
    """Positions of a row, and why so many."""
    if not is_of_sentences:
        return LENGTH_OF_WORDS, "rows of many pairs"
    streams = folder.parallel()
    if not streams:
        raise InputError(f"{folder.folder}: no pairs in it; expected parallel corpora")
    layout = Layout(OBJECTIVES["XLCO"], CorruptionConfig(), folder.manifest.specials)
    positions = sum(s.num_tokens for s in streams) / sum(s.num_rows for s in streams) + layout.num_special
    length = min(LENGTHS[1], max(LENGTHS[0], -(-round(positions * PAIRS_IN_A_ROW) // 64) * 64))
    return length, f"about {length / positions:.0f} pairs of {positions:.0f} positions, each told from the others"


def passes_of_a_step(content: Mapping[str, Any], folder: CorpusFolder) -> float:
    """What part of the pairs a step reads, mean over the steps; each objective counts for itself."""
    data = build(DataConfig, content.get("data", {}), "the recipe", "data.")
    settings = data.row_settings(folder.manifest.specials, seed=0)
    passes = 0.0
    for stage in content["stages"]:
        counts = apportion([*stage["rows"].values()], content["batch"]["rows_per_step"])
        for name, count in zip(stage["rows"], counts, strict=True):
            if OBJECTIVES[name].num_given == 2:
                sources = [RowSource(OBJECTIVES[name], s, folder.language_ids, settings) for s in folder.parallel()]
                rows = sum(source.rows_per_epoch for source in sources)
                passes += count / max(1, rows) * stage["steps"] / total_steps(content)
    return passes


def timed(
    content: Mapping[str, Any],
    of_a_step: float,
    passes: float,
    minutes: float | None,
    seconds_a_step: Callable[[], float],
) -> tuple[dict[str, Any], Choice]:
    """The recipe with the steps of its stages, in their proportions; and the reason of their number.

    `of_a_step`: passes over the pairs that a step makes.
    """
    by_passes = max(1, round(passes / of_a_step))
    reason, num_steps = f"{passes:g} passes over the pairs", by_passes
    if minutes is not None:
        seconds = seconds_a_step()
        by_minutes = max(1, int(60 * minutes / seconds))
        num_steps = min(by_passes, by_minutes)
        within = f"{seconds:.2f} s a step here, {minutes:g} minutes allow {by_minutes}"
        reason = f"{reason}; {within}" if by_passes <= by_minutes else f"{within}: {num_steps * of_a_step:.2g} passes"
    counts = apportion([stage["steps"] for stage in content["stages"]], max(num_steps, len(content["stages"])))
    stages = [{**stage, "steps": count} for stage, count in zip(content["stages"], counts, strict=True)]
    return {**content, "stages": stages}, Choice("steps", f"{sum(counts)}", reason)


def closed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with what follows from the number of its steps, where it does not say it: warm-up, measurements."""
    num_steps = total_steps(content)
    follows = {
        "optimizer": {"warmup_steps": round(WARMUP * num_steps)},
        "output": {"evaluate_every": max(1, num_steps // 4)},
    }
    return {**content, **{section: {**own, **content.get(section, {})} for section, own in follows.items()}}


def of_sides(shared: Mapping[str, float]) -> list[Choice]:
    """What is odd about the two sides of the pairs: most languages share no more words than names."""
    why = "of the words of one side stand on the other too: is it one language, or are they close?"
    return [Choice(f"sides of {name}", f"{share:.0%}", why) for name, share in shared.items() if share > ALIKE]


def keep_of(content: Mapping[str, Any], asked: float | None) -> Choice:
    """Share of the weights before in what is exported, and why."""
    if asked is not None:
        return Choice("keep", f"{asked:g}", "asked for")
    if SENTENCE in heads_of({name for stage in content["stages"] for name in stage["rows"]}):
        return Choice("keep", f"{KEPT:g}", "of the weights before: what other languages lost mostly comes back")
    return Choice("keep", "0", "words are asked of their translation; measure --keep 0.3 if other languages matter")
