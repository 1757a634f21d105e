"""The masked-language heads of transformers' classes, in two parts: the transform of a state, and the output matrix.

HEADS is the one place that knows the names of a class's parts. A new class is one line there. A model without such a head,
or of an unknown class, gets a new one, tied to its word embeddings. It has the parts of its class's own head, so that an
export can hold it, where these transform the states; else (EuroBERT, an unknown class) dense, GELU, layer norm.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from ernie_m.base.console import Choice
from ernie_m.base.special_tokens import Specials
from ernie_m.models.head import Targets
from ernie_m.models.heads import NEW_NORM_EPS, TokenHead
from ernie_m.models.tied_gradient import TiedGradient

GELU = ""
"""In `transform`: the activation, where the class calls it as a function and has no module for it."""


@dataclass(frozen=True)
class HeadNames:
    """Dotted names in the class: the modules that a state goes through, in order, and the linear layer after them."""

    transform: tuple[str, ...]
    decoder: str
    last_attention: str = ""
    """In the bare encoder: the last layer's attention module, residual included; after it positions are independent."""


_BERT = HeadNames(("cls.predictions.transform",), "cls.predictions.decoder", "encoder.layer.{last}.attention")
_ROBERTA = HeadNames(("lm_head.dense", GELU, "lm_head.layer_norm"), "lm_head.decoder", "encoder.layer.{last}.attention")
_ROTARY_ROBERTA = HeadNames(_ROBERTA.transform, _ROBERTA.decoder)

HEADS = {
    "albert": HeadNames(("predictions.dense", "predictions.activation", "predictions.LayerNorm"), "predictions.decoder"),
    "bert": _BERT,
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "distilbert": HeadNames(("vocab_transform", "activation", "vocab_layer_norm"), "vocab_projector"),
    "electra": HeadNames(("generator_predictions",), "generator_lm_head", _BERT.last_attention),
    "ernie": _BERT,
    "eurobert": HeadNames((), "lm_head"),
    "gte": _ROTARY_ROBERTA,
    "jina_embeddings_v3": _ROTARY_ROBERTA,
    "modernbert": HeadNames(("head",), "decoder"),
    "nomic_bert": HeadNames(_BERT.transform, _BERT.decoder),
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
}
"""By `model_type`."""


class ForeignTokenHead(TokenHead):
    """States [N, D] -> nll or tokens, as in TokenHead. The output matrix is the class's decoder, usually the word embedding.

    The matrix is registered here too, so that ZeRO-3 gathers it when the head runs. `is_tied`: it is the word embedding, and
    a TiedGradient may be used.
    """

    def __init__(
        self, transform: nn.Module, words: nn.Embedding, weight: Tensor, bias: Tensor | None, specials: Specials
    ) -> None:
        nn.Module.__init__(self)  # the parts are given
        self.pieces = specials.replaceable
        self.is_tied = weight is words.weight and words.padding_idx is not None
        self.transform = transform
        assert isinstance(weight, nn.Parameter)
        self.decoder_weight = weight
        if isinstance(bias, nn.Parameter):
            self.decoder_bias = bias
        else:
            self.register_buffer("decoder_bias", weight.new_zeros(len(weight)), persistent=False)

    def transformed(self, states: Tensor) -> Tensor:
        """The input of the output matrix, [..., D], from states [..., D]."""
        hidden: Tensor = self.transform(states)
        return hidden

    def forward(self, states_ND: Tensor, targets: Targets | None = None, tied: TiedGradient | None = None) -> Tensor:
        """As in TokenHead; `tied` is used only if `is_tied`."""
        return super().forward(states_ND, targets, tied if self.is_tied else None)


def token_head(model: Any, words: nn.Embedding, seed: int, specials: Specials) -> tuple[ForeignTokenHead, Choice]:
    """The head of a model of transformers, or a new one drawn from `seed`, tied to `words`; and which, with the reason."""
    decoder, names = model.get_output_embeddings(), HEADS.get(model.config.model_type)
    if decoder is None:
        return new_head(model.config, words, seed, specials), Choice(
            "token head", "new", "the model has no masked-language head"
        )
    if names is None:
        reason = f"how {type(model).__name__} names its parts is not known here"
        return new_head(model.config, words, seed, specials), Choice("token head", "new", reason)
    assert decoder is model.get_submodule(names.decoder)
    transform = _transform_of(model, names)
    return ForeignTokenHead(transform, words, decoder.weight, decoder.bias, specials), Choice(
        "token head", "the model's", type(model).__name__
    )


def _transform_of(model: Any, names: HeadNames) -> nn.Module:
    parts = [nn.GELU() if name == GELU else model.get_submodule(name) for name in names.transform]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def new_head(config: Any, words: nn.Embedding, seed: int, specials: Specials) -> ForeignTokenHead:
    """Its matrices drawn from `seed`, biases 0, norms 1, and the word embedding as output matrix."""
    weight = words.weight
    transform, has_bias = _new_transform(config, words.embedding_dim)
    transform = transform.to(weight.dtype).to_empty(device=weight.device)
    drawn(transform, config, seed)
    bias = nn.Parameter(weight.new_zeros(words.num_embeddings)) if has_bias else None
    return ForeignTokenHead(transform, words, weight, bias, specials)


def _new_transform(config: Any, width: int) -> tuple[nn.Module, bool]:
    """(What turns states into input of the output matrix, on the meta device; whether a bias is added to the logits)."""
    names = HEADS.get(config.model_type)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        if names is not None and names.transform:
            of_class: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
            model = of_class(copy.deepcopy(config))
            decoder = model.get_submodule(names.decoder)
            if decoder.in_features == width:
                return _transform_of(model, names), decoder.bias is not None
        dense, norm = nn.Linear(config.hidden_size, width), nn.LayerNorm(width, eps=NEW_NORM_EPS)
        return nn.Sequential(dense, nn.GELU(), norm), True


def drawn(module: nn.Module, config: Any, seed: int) -> None:
    """Draw a new head's own layers from `seed`: matrices normal(0, the model's initializer_range), biases 0, norms 1."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight.copy_(torch.empty(part.weight.shape).normal_(0, config.initializer_range, generator=rng))
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.LayerNorm):
                part.reset_parameters()
