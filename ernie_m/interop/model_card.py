"""README.md of an exported folder: what the model is, what it was trained on and how, and what its run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ernie_m.base.files import sha256_of
from ernie_m.base.run_files import DATA_IDENTITY
from ernie_m.base.table import markdown
from ernie_m.corpus.folder import MANIFEST_FILE, TRAIN
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.layout import ERNIE_M
from ernie_m.rows.objective import TOKEN
from ernie_m.rows.objectives import OBJECTIVES, heads_of
from ernie_m.runs.checkpoint import Checkpoint
from ernie_m.runs.metrics import read_metrics

CARD_FILE = "README.md"
RECENT_STEPS = 100
"""The last loss is the mean of so many steps."""
LEARNT_BY = (
    *("seed", "init_from", "init_encoder", "init_decoder", "stages", "objective_weights", "stream_weights"),
    *("model", "data", "batch", "optimizer"),
)
"""The sections of a run's configuration that decide what was learnt."""
ERNIE_M_CLASS = (
    "It has ERNIE-M's class, which transformers has up to 4.57: `AutoModel` and `AutoTokenizer` load it there. The class "
    "has no head for masked language modelling, and its pooler is drawn anew."
)
XLM_R_CLASS = (
    "It has XLM-R's class: {loaders} and `AutoTokenizer` load it, and so does `SentenceTransformer`, which takes the mean "
    "of the last layer."
)
TRANSLATION_CLASS = (
    "It is an `EncoderDecoderModel` of XLM-R's classes, with a copy of each tied matrix: `AutoModelForSeq2SeqLM` and "
    "`AutoTokenizer` load it."
)
TRANSLATION_USE = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(lines, return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
"""
PAPERS = {
    "XLM, Lample & Conneau, 2019, https://arxiv.org/abs/1901.07291": ("MMLM", "TLM", "CLM", "MT", "AE", "BT"),
    "ERNIE-M, Ouyang et al., 2021, https://arxiv.org/abs/2012.15674": ("CAMLM", "BTMLM"),
    "InfoXLM, Chi et al., 2021, https://arxiv.org/abs/2007.07834": ("XLCO",),
    "AlignLM, https://arxiv.org/abs/2106.01732": ("AlignLM",),
    "T5's prefix language model, Raffel et al., 2020, https://arxiv.org/abs/1910.10683": ("PLM",),
}
"""Where each objective is described; MMLM is XLM's MLM."""
OTHER_CLASS = "It has the class, the tokenizer and all else of the encoder that it was made of, and loads as that does."
OTHER_HEAD = " Its class is the one with a head of masked words, which `AutoModelForMaskedLM` loads."


def model_card(
    run: Path,
    configuration: Mapping[str, Any],
    checkpoint: Checkpoint,
    data: Path,
    model_type: str,
    keep: float = 0.0,
    language: str | None = None,
    backbone_has_head: bool = False,
) -> str:
    """The card, in Markdown, of `checkpoint` of `run`; `data` is its data folder, `keep` the share of the start in it,
    `language` the one that all tokens carry, `backbone_has_head`: whether an encoder of transformers has its head of masked
    words in the folder."""
    languages, heads = configuration[DATA_IDENTITY]["languages"], losses_of_heads(configuration)
    backbone, is_ernie_m = configuration["model"].get("backbone"), model_type == ERNIE_M.model_type
    fills_masks = backbone_has_head if backbone else TOKEN in heads and not is_ernie_m
    loaders = "`AutoModel`, `AutoModelForMaskedLM`" if fills_masks else "`AutoModel`"
    of_class = ERNIE_M_CLASS if is_ernie_m else XLM_R_CLASS.format(loaders=loaders)
    if backbone:
        of_class = OTHER_CLASS + (OTHER_HEAD if fills_masks else "")
    embedding = "none" if backbone else configuration["model"].get("language_embedding")
    front = {
        "library_name": "transformers",
        **({"base_model": backbone} if backbone else {}),
        "pipeline_tag": "fill-mask" if fills_masks else "feature-extraction",
        "language": languages,
        "tags": ["cross-lingual"],
    }
    lines = [line for line in read_metrics(run) if line["step"] <= checkpoint.step]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# A cross-lingual encoder of {len(languages)} languages, after {checkpoint.step:,} steps",
        f"{_objectives_of(configuration)} {of_class}",
        _languages_of_tokens(embedding, languages, language),
        "## Training",
        _training(configuration, checkpoint, lines),
        _heads(heads, fills_masks),
        *([_averaged(keep)] if keep else []),
        *_origin(configuration, data, lines),
    ]
    return "\n\n".join(parts) + "\n"


def translation_card(
    run: Path, configuration: Mapping[str, Any], checkpoint: Checkpoint, data: Path, direction: tuple[str, str]
) -> str:
    """The card of a model that translates in one direction; arguments as `model_card`."""
    source, target = direction
    front = {
        "library_name": "transformers",
        "pipeline_tag": "translation",
        "language": [source, target],
        "tags": ["translation", "xlm"],
    }
    lines = [line for line in read_metrics(run) if line["step"] <= checkpoint.step]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# Translation from {source} to {target}, after {checkpoint.step:,} steps",
        "Encoder and decoder as in XLM (Lample & Conneau, 2019, https://arxiv.org/abs/1901.07291). " + TRANSLATION_CLASS,
        f"```python\n{TRANSLATION_USE}```",
        "It decodes greedily unless told otherwise (`num_beams`). `ernie-m translate` writes at most 1.5 n + 10 tokens, n "
        "of the source; the class goes on to the model's last position if no end comes before (`max_new_tokens`).",
        f"Every token of the input is read as {source}, every token of the output is written as {target}.",
        "## Training",
        _training(configuration, checkpoint, lines),
        *_origin(configuration, data, lines),
    ]
    return "\n\n".join(parts) + "\n"


def _objectives_of(configuration: Mapping[str, Any]) -> str:
    """The objectives of all stages, each with the paper that it is from."""
    trained = {name for stage in configuration["stages"] for name in stage["rows"]}
    found = [(", ".join(name for name in names if name in trained), paper) for paper, names in PAPERS.items()]
    return f"Pre-trained by {'; '.join(f'{names} ({paper})' for names, paper in found if names)}."


def _origin(configuration: Mapping[str, Any], data: Path, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last sections of every card: what it was trained on, what was measured, the recipe."""
    return [
        "## Data",
        _data(configuration, data),
        "## Measured in the run",
        _measured(lines),
        "## Recipe",
        f"```yaml\n{yaml.safe_dump(_recipe(configuration), sort_keys=False, allow_unicode=True)}```",
    ]


def _languages_of_tokens(embedding: str | None, languages: Sequence[str], only: str | None) -> str:
    """Which language each token has, and how the reader gives it."""
    if embedding == "all" and only is None:
        numbers = ", ".join(f"{language} {number}" for number, language in enumerate(languages, start=1))
        return (
            "In training every token carried its language. Give it as `token_type_ids`, one number a token, or the model "
            f"reads text of no language, which it never saw: {numbers}."
        )
    if embedding == "all":
        return f"In training every token carried its language. Here all tokens carry that of {only}: give it text in {only}."
    if embedding == "none":
        return "No token carries a language."
    return (
        "`<mask>` carried a language in training and carries none here; sentences without masks are encoded as in training."
    )


def _training(configuration: Mapping[str, Any], checkpoint: Checkpoint, lines: Sequence[Mapping[str, Any]]) -> str:
    rows, length = configuration["batch"]["rows_per_step"], configuration["data"]["sequence_length"]
    first, stages = 0, []
    for stage in configuration["stages"]:
        done = min(stage["steps"], max(0, checkpoint.step - first))
        mix = ", ".join(f"{name} {weight:g}" for name, weight in stage["rows"].items())
        stages.append([f"{done:,} of {stage['steps']:,}", mix])
        first += stage["steps"]
    tokens = sum(line.get("tokens") or 0 for line in lines)
    seen = f", {tokens:,} tokens in all" if tokens else ""
    keys = ("init_from", "init_encoder", "init_decoder")
    starts = [configuration[key] for key in keys if configuration.get(key)] or [configuration["model"].get("backbone")]
    named = " and ".join(f"`{start}`" for start in dict.fromkeys(filter(None, starts)))
    origin = f"Started with the weights of {named}" if named else "Started with weights drawn at random"
    about = f"{origin}; {rows:,} rows of {length} positions a step{seen}. Rows of each objective, in proportion:"
    return f"{about}\n\n{markdown(['steps', 'objectives'], stages)}"


def losses_of_heads(configuration: Mapping[str, Any]) -> dict[str, list[str]]:
    """Head -> the losses that train it in the stages of a run."""
    objectives = [name for name in OBJECTIVES if any(name in stage["rows"] for stage in configuration["stages"])]
    predictions = [prediction for name in objectives for prediction in OBJECTIVES[name].predictions]
    heads = configuration["model"].get("heads") or heads_of(objectives)
    return {head: [prediction.loss for prediction in predictions if prediction.head == head] for head in heads}


def _heads(heads: Mapping[str, Sequence[str]], fills_masks: bool) -> str:
    shown = [
        [head, ", ".join(losses) or "none", "yes" if head == TOKEN and fills_masks else "no"]
        for head, losses in heads.items()
    ]
    return (
        f"Heads, and the losses that train them in these stages:\n\n{markdown(['head', 'losses', 'in this folder'], shown)}"
    )


def _averaged(keep: float) -> str:
    return (
        f"These weights are {keep:g} of those that it started with and {1 - keep:g} of the trained ones; what the start "
        "lacked is as trained. What was measured in the run is of the trained ones."
    )


def _data(configuration: Mapping[str, Any], data: Path) -> str:
    identity = configuration[DATA_IDENTITY]
    same = (data / MANIFEST_FILE).is_file() and sha256_of(data / MANIFEST_FILE) == identity["manifest_sha256"]
    if not same:
        return f"Languages: {', '.join(identity['languages'])}. Its manifest was not at hand when the model was exported."
    manifest = Manifest.read(data)
    corpora, tokens_of = [], dict.fromkeys(manifest.languages, 0)
    for corpus in manifest.corpora:
        shards = corpus.shards.of_split(TRAIN)
        tokens = np.asarray(shards.tokens).sum(axis=0) if len(shards) else [0] * len(corpus.languages)
        for language, count in zip(corpus.languages, tokens, strict=True):
            tokens_of[language] += int(count)
        rows = int(np.asarray(shards.rows).sum()) if len(shards) else 0
        corpora.append([corpus.name, corpus.format, "-".join(corpus.languages), f"{rows:,}", f"{int(sum(tokens)):,}"])
    languages = [[language, f"{count:,}"] for language, count in sorted(tokens_of.items(), key=lambda item: -item[1])]
    return "\n\n".join(
        [
            f"A vocabulary of {manifest.vocab_size:,}; tokenizer SHA-256 `{manifest.tokenizer_sha256}`.",
            markdown(["corpus", "format", "languages", "lines or pairs", "tokens"], corpora),
            markdown(["language", "tokens"], languages),
        ]
    )


def _measured(lines: Sequence[Mapping[str, Any]]) -> str:
    """The newest evaluation, and mean losses of the last steps."""
    evaluations = [line for line in lines if line.get("cross_lingual_gain") is not None]
    rows = []
    if evaluations:
        newest = evaluations[-1]
        named = {"cross_lingual_gain": "cross-lingual gain, nats a mask (a true translation against another sentence)"}
        for key, value in newest.items():
            if key != "step" and isinstance(value, int | float):
                rows.append([named.get(key, f"`{key}`"), f"{value:.4f}", f"{newest['step']:,}"])
    recent = [line for line in lines if "learning_rate" in line][-RECENT_STEPS:]
    for key in sorted({key for line in recent for key in line if key.startswith("loss/") and key.count("/") == 1}):
        values = [line[key] for line in recent if line.get(key) is not None]
        if values:
            what = (
                f"training loss of {key.removeprefix('loss/')}, nats a predicted token, mean of the last {len(values)} steps"
            )
            rows.append([what, f"{np.mean(values):.4f}", f"{recent[-1]['step']:,}"])
    return markdown(["what", "value", "step"], rows) if rows else "Nothing was measured."


def _recipe(configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {key: configuration[key] for key in LEARNT_BY if configuration.get(key)}
