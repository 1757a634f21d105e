"""How another class names our parameters: one table a class, used for reading and for writing.

Each of our parameters is one of theirs. The fused query-key-value matrix is three of theirs, one above the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ernie_m.base.special_tokens import FIRST_POSITION_ID, PAD_ID

KINDS = ("weight", "bias")
NO_BIAS = ("embeddings.word", "embeddings.position")
LANGUAGES = "embeddings.language.weight"
POSITIONS = "embeddings.position.weight"
LANGUAGE_NUMBERS = "lang2id"
"""Key of an exported config.json whose token types are languages, named as in XLM's class: language -> its type."""


@dataclass(frozen=True)
class Layout:
    """The names of a class, without .weight and .bias; {i} is the layer.

    `token_type`: a parameter whose first row the class adds to every token, as XLM-R does. Adding that row to the position
    table instead gives the same hidden states.
    """

    model_type: str
    prefix: str
    """In front of the encoder's names if the model has a head."""
    encoder: Mapping[str, str]
    qkv: tuple[str, str, str]
    head: Mapping[str, str]
    """Whole names, our parameter -> theirs; empty if the class has no MLM head."""
    token_type: str | None = None
    first_position: int = FIRST_POSITION_ID
    """Row of the position table for a sentence's first token."""
    pad: int = PAD_ID
    output_matrix: str | None = None
    """The name under which the word embedding may be stored again, as the head's output matrix."""

    def encoder_names(self, num_layers: int) -> dict[str, tuple[str, ...]]:
        """Our parameters of the encoder -> theirs, without prefix."""
        names: dict[str, tuple[str, ...]] = {}
        for ours, theirs in self.encoder.items():
            for i in range(num_layers if "{i}" in ours else 1):
                for kind in KINDS if ours not in NO_BIAS else KINDS[:1]:
                    names[f"{ours.format(i=i)}.{kind}"] = (f"{theirs.format(i=i)}.{kind}",)
        for i in range(num_layers):
            for kind in KINDS:
                names[f"layers.{i}.qkv.{kind}"] = tuple(f"{name.format(i=i)}.{kind}" for name in self.qkv)
        return names

    def with_prefix(self, names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """The same with `prefix` in front of theirs."""
        return {ours: tuple(f"{self.prefix}.{name}" for name in theirs) for ours, theirs in names.items()}

    def renamed(self, other: Layout, num_layers: int, stored: Collection[str]) -> dict[str, str]:
        """The encoder's names in `stored` (with the prefix or without it) -> the names of another class, with its prefix."""
        names = self.encoder_names(num_layers)
        if any(name.startswith(f"{self.prefix}.") for name in stored):
            names = self.with_prefix(names)
        theirs = other.with_prefix(other.encoder_names(num_layers))
        return {name: to for ours in names for name, to in zip(names[ours], theirs[ours], strict=True)}


XLM_ROBERTA = Layout(
    model_type="xlm-roberta",
    prefix="roberta",
    encoder={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{i}.attention_out": "encoder.layer.{i}.attention.output.dense",
        "layers.{i}.attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
        "layers.{i}.ffn_in": "encoder.layer.{i}.intermediate.dense",
        "layers.{i}.ffn_out": "encoder.layer.{i}.output.dense",
        "layers.{i}.ffn_norm": "encoder.layer.{i}.output.LayerNorm",
    },
    qkv=(
        "encoder.layer.{i}.attention.self.query",
        "encoder.layer.{i}.attention.self.key",
        "encoder.layer.{i}.attention.self.value",
    ),
    head={
        "heads.token.dense.weight": "lm_head.dense.weight",
        "heads.token.dense.bias": "lm_head.dense.bias",
        "heads.token.norm.weight": "lm_head.layer_norm.weight",
        "heads.token.norm.bias": "lm_head.layer_norm.bias",
        "heads.token.decoder_bias": "lm_head.bias",
    },
    token_type="embeddings.token_type_embeddings.weight",
    output_matrix="lm_head.decoder.weight",
)
# Positions start at 2 here as well: the class counts from 0 and adds 2 ("to mimic paddlenlp"). It has no token types, and
# its release no MLM head.
ERNIE_M = Layout(
    model_type="ernie_m",
    prefix="ernie_m",
    encoder={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.layer_norm",
        "layers.{i}.attention_out": "encoder.layers.{i}.self_attn.out_proj",
        "layers.{i}.attention_norm": "encoder.layers.{i}.norm1",
        "layers.{i}.ffn_in": "encoder.layers.{i}.linear1",
        "layers.{i}.ffn_out": "encoder.layers.{i}.linear2",
        "layers.{i}.ffn_norm": "encoder.layers.{i}.norm2",
    },
    qkv=(
        "encoder.layers.{i}.self_attn.self_attn.q_proj",
        "encoder.layers.{i}.self_attn.self_attn.k_proj",
        "encoder.layers.{i}.self_attn.self_attn.v_proj",
    ),
    head={},
)
LAYOUTS = {layout.model_type: layout for layout in (XLM_ROBERTA, ERNIE_M)}
"""Classes that are written."""
# The class that XLM-R's was made of; its head has other names, and its positions begin at 0.
BERT = replace(
    XLM_ROBERTA,
    model_type="bert",
    prefix="bert",
    head={
        "heads.token.dense.weight": "cls.predictions.transform.dense.weight",
        "heads.token.dense.bias": "cls.predictions.transform.dense.bias",
        "heads.token.norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "heads.token.norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "heads.token.decoder_bias": "cls.predictions.bias",
    },
    output_matrix="cls.predictions.decoder.weight",
    first_position=0,
    pad=0,
)
OF_SIDES = {**LAYOUTS, BERT.model_type: BERT}
"""Classes that a side of a model that translates may start from; model.backbone trains a BERT as it is."""
# Present names; ernie_m.interop.fairseq turns older ones into these. It has no token types.
FAIRSEQ = Layout(
    model_type="xlm-roberta of fairseq",
    prefix="encoder.sentence_encoder",
    encoder={
        "embeddings.word": "embed_tokens",
        "embeddings.position": "embed_positions",
        "embeddings.norm": "layernorm_embedding",
        "layers.{i}.attention_out": "layers.{i}.self_attn.out_proj",
        "layers.{i}.attention_norm": "layers.{i}.self_attn_layer_norm",
        "layers.{i}.ffn_in": "layers.{i}.fc1",
        "layers.{i}.ffn_out": "layers.{i}.fc2",
        "layers.{i}.ffn_norm": "layers.{i}.final_layer_norm",
    },
    qkv=("layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj", "layers.{i}.self_attn.v_proj"),
    head={ours: f"encoder.{theirs}" for ours, theirs in XLM_ROBERTA.head.items()},
    output_matrix="encoder.lm_head.weight",
)

CONFIG_KEYS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "layer_norm_eps": "layer_norm_eps",
    "vocab_size": "vocab_size",
}
"""Key of our model section -> key of their config.json; both classes use the same."""
