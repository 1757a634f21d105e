"""Retrieval after hardest-negative fine-tuning: an encoder learns on bitext that a translation is nearer than any other
sentence of the batch.

With cos the cosine of two sentences' mean-pooled states of one layer, a pair's loss is the binary cross-entropy of
scale * (cos - offset): 1 for the translation, 0 for the most similar other sentence of the batch, taken in both directions.
The paper names the loss; scale, offset and the hyperparameters are ours. With several ranks each finds negatives in its
own part of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from ernie_m.base.config import section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.corpus.aligned_files import read_aligned
from ernie_m.downstream.encoders import Size, layer_of, place_of
from ernie_m.downstream.submission import Submission, a_line_each
from ernie_m.downstream.task import Hyperparameters, Logits, Part, Scored, Setup, Task
from ernie_m.interop.encoder import OpenEncoder
from ernie_m.models.retrieval import mean_over_tokens, nearest


class SentencePair(NamedTuple):
    """A sentence and its translation; or that which stands in its line, where the English side is in another order."""

    source: str
    target: str
    is_aligned: bool = True


@section
class BitextHyperparameters(Hyperparameters):
    """What hardest-negative fine-tuning adds."""

    layer: Annotated[int, Range(least=0, most=1000, zero="the middle one")] = 0
    """Layer whose states are pooled, 1 .. number of layers; 0: the middle one (7 of 12, 13 of 24)."""
    scale: Annotated[float, Range(above=0, most=1e6)] = 20.0
    """Factor of the cosine's distance from `offset`."""
    offset: Annotated[float, Range(above=-1, below=1, zero="orthogonal states")] = 0.5
    """Cosine at which a pair counts as a translation with probability one half."""


class BitextTuning(Task[SentencePair]):
    """Tatoeba's retrieval after fine-tuning on given bitext."""

    name = "tatoeba"
    settings: ClassVar[Mapping[str, str | None]] = {"hardest-negative": None}
    metrics = ("accuracy", "accuracy_from_english")
    protocol = "accuracy@1 of the nearest by cosine of mean-pooled states of a layer, xx -> en as in XTREME; en -> xx"
    patterns: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": ("train/*{language}-{other}.{language}",),
        "validation": ("dev/*{language}-{other}.{language}",),
        "test": ("tatoeba.{language}-eng.{language}", "{language}-en.{language}"),
    }
    """LASER's names of the test set, and XTREME's, whose English sides are sorted."""
    auto_class = AutoModel
    xtreme = Submission("tatoeba", "tsv", a_line_each())

    def defaults(self, setting: str, size: Size) -> BitextHyperparameters:
        """Ours: the paper gives none."""
        return BitextHyperparameters(learning_rate=2e-5, batch_size=64, epochs=1, max_length=128)

    def read(self, path: Path, language: str | None) -> dict[str, list[SentencePair]]:
        """Two line-aligned files, of which one is named: `fr-en.fr`, or LASER's `tatoeba.fra-eng.fra`."""
        own, partner = sides_of(path)
        sources, targets = read_aligned(path, partner)
        is_aligned = not is_sorted(targets)
        return {language or own: [SentencePair(*pair, is_aligned) for pair in zip(sources, targets, strict=True)]}

    def read_with(self, path: Path) -> Sequence[Path]:
        """Both sides."""
        return [path, sides_of(path)[1]]

    def labels(self, train: Sequence[SentencePair]) -> tuple[str, ...]:
        """There are none."""
        return ()

    def features(self, examples: Sequence[SentencePair], setup: Setup, with_answers: bool) -> Sequence[Mapping[str, Any]]:
        """Ids of both sides. Line i translates line i, so `with_answers` adds nothing."""
        return BitextFeatures(examples, setup)

    def collator(self, setup: Setup) -> Callable[[list[Any]], Mapping[str, Any]]:
        """Both sides padded, and which sentences of the batch are not translations of each other."""

        def collate(features: list[Any]) -> Mapping[str, Any]:
            batch = {"is_negative": negatives([(f["source_ids"], f["target_ids"]) for f in features])}
            for side in ("source", "target"):
                ids = [{"input_ids": feature[f"{side}_ids"]} for feature in features]
                padded = setup.tokenizer.pad(ids, return_tensors="pt")
                batch |= {f"{side}_ids": padded["input_ids"], f"{side}_mask": padded["attention_mask"]}
            return batch

        return collate

    def model(self, encoder: OpenEncoder, setup: Setup) -> PairEncoder:
        """The encoder; raises InputError for a layer that it does not have."""
        return PairEncoder(encoder.model(AutoModel), setup.hyperparameters)

    def score(
        self,
        examples: Sequence[SentencePair],
        features: Sequence[Mapping[str, Any]],
        logits: Logits,
        setup: Setup,
        language: str,
    ) -> Scored:
        """Accuracy@1 both ways; predictions are the line (from 0) of the translation that was found."""
        source_ND, target_ND = (torch.from_numpy(side) for side in logits)
        found, back = nearest(source_ND, target_ND), nearest(target_ND, source_ND)
        if not self.is_labelled(examples[0]):
            return Scored({}, found.tolist())
        right = torch.arange(len(examples))
        metrics = [100 * (side == right).double().mean().item() for side in (found, back)]
        return Scored(dict(zip(self.metrics, metrics, strict=True)), found.tolist())

    def is_labelled(self, example: SentencePair) -> bool:
        """Whether its translation is known."""
        return example.is_aligned

    def trivial_score(self, examples: Sequence[SentencePair]) -> float:
        """By chance."""
        return 100 / len(examples)


class BitextFeatures(Sequence[Mapping[str, Any]]):
    """Tokenized when indexed: bitext has millions of pairs."""

    def __init__(self, examples: Sequence[SentencePair], setup: Setup) -> None:
        self._examples, self._setup = examples, setup

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        """`source_ids` and `target_ids` of pair `index`, each cut to max_length."""
        longest = self._setup.hyperparameters.max_length
        sides = zip(("source", "target"), self._examples[index], strict=False)
        tokenizer = self._setup.tokenizer
        return {f"{side}_ids": tokenizer(text, truncation=True, max_length=longest)["input_ids"] for side, text in sides}


class PairEncoder(nn.Module):
    """Embeddings of both sides of a batch, and the loss while training. Layers above the pooled one are not trained."""

    base_model_prefix = "encoder"

    def __init__(self, encoder: Any, hyperparameters: BitextHyperparameters) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.layer = layer_of(encoder.config, hyperparameters.layer)
        self.scale, self.offset = hyperparameters.scale, hyperparameters.offset
        place = place_of(self)
        for name, parameter in self.named_parameters():
            layer = place(name)
            parameter.requires_grad_(layer is not None and layer < self.layer)

    def forward(
        self, source_ids: Tensor, source_mask: Tensor, target_ids: Tensor, target_mask: Tensor, is_negative: Tensor
    ) -> dict[str, Tensor]:
        """`source` and `target`: [B, D]; `loss` while training. `is_negative`: bool [B, B]."""
        source_BD, target_BD = self._pooled(source_ids, source_mask), self._pooled(target_ids, target_mask)
        found = {"source": source_BD, "target": target_BD}
        if self.training:
            cosine_BB = F.normalize(source_BD.float(), dim=1) @ F.normalize(target_BD.float(), dim=1).T
            found["loss"] = hardest_negative_loss(self.scale * (cosine_BB - self.offset), is_negative)
        return found

    def _pooled(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        states = self.encoder(input_ids=ids_BS, attention_mask=mask_BS, output_hidden_states=True).hidden_states
        return mean_over_tokens(states[self.layer], mask_BS)

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """The encoder alone, in Hugging Face's layout, from this module's (gathered) weights."""
        prefix = f"{self.base_model_prefix}."
        own = {name.removeprefix(prefix): value for name, value in weights.items()}
        self.encoder.save_pretrained(folder, state_dict=own)


def hardest_negative_loss(logits_BB: Tensor, is_negative_BB: Tensor) -> Tensor:
    """Mean binary cross-entropy of each pair (the diagonal) and of its hardest negative, in both directions.

    A row or column without any negative contributes the pair's own term only.
    """
    hard_BB = logits_BB.masked_fill(~is_negative_BB, -torch.inf)
    positive = F.softplus(-logits_BB.diagonal()).mean()
    return positive + 0.5 * sum(F.softplus(hard_BB.amax(dim)).mean() for dim in (0, 1))


def negatives(pairs: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """bool [B, B]: whether target j is a wrong translation of source i.

    Pairs that share a sentence are not negatives of each other.
    """
    return torch.tensor([[a[0] != b[0] and a[1] != b[1] for b in pairs] for a in pairs])


SORTED_BY_XTREME = range(11, 1001)
"""Lines of a file that is taken for sorted: fewer may be so by chance, more are bitext to train on, not Tatoeba's."""


def is_sorted(targets: Sequence[str]) -> bool:
    """Whether the translations are not in their sentences' order, but sorted, as XTREME gives out Tatoeba's."""
    return len(targets) in SORTED_BY_XTREME and list(targets) == sorted(targets)


def sides_of(path: Path) -> tuple[str, Path]:
    """Language of a bitext's file and the path of its other side: `x.fr-en.fr` -> (`fr`, `x.fr-en.en`).

    Raises InputError when the name does not tell them.
    """
    stem, _, own = path.name.rpartition(".")
    languages = stem.rpartition(".")[2].split("-")
    if len(languages) == 2 and own in languages:
        other = languages[1 - languages.index(own)]
        return own, path.with_name(f"{stem}.{other}")
    raise InputError(f"{path}: the name does not tell its other side; expected one such as fr-en.fr beside fr-en.en")
