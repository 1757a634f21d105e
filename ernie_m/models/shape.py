"""The section `model` of a recipe: the shape of our own encoder, or the name of one of transformers.

Needs no torch: the doctor and the planner read it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from ernie_m.base.config import Section, build, hints_of, one_section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.base.special_tokens import FIRST_POSITION_ID, XLM_R_VOCAB_SIZE
from ernie_m.rows.objective import HEADS, TOKEN

Attention = Literal["auto", "sdpa", "pieces", "flex"]
Pooling = Literal["first", "mean"]
SHARED = "shared"
SMALLEST_FLEX_HEAD = 16
"""Least size of an attention head for flex on a GPU: torch refuses to compile smaller ones."""


@section
class ComputedModel(Section):
    """What a recipe says of any encoder."""

    attention_dropout: Annotated[float, Range(least=0, below=1, zero="none")] = 0.0
    """Dropout of attention weights; above 0, flex cannot be used."""
    attention: Attention = "auto"
    """Attention backend; auto takes flex on GPUs from sm80 on, sdpa on older ones, pieces on CPU."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""
    pooling: Pooling | None = None
    """What XLCO compares: a sentence's first state, or the mean of all, as sentence encoders are used; null: the first one
    through a projection, which is not exported (InfoXLM)."""
    heads: tuple[str, ...] | None = None
    """Heads of the model; null takes those that the stages' objectives need (only token if there are no stages)."""

    def check(self) -> None:
        known = all(name in HEADS for name in self.heads or ())
        self.require(known and self.heads != (), "heads", f"some of {', '.join(HEADS)}, or null")
        flex_drops = self.attention == "flex" and self.attention_dropout > 0
        self.require(not flex_drops, "attention_dropout", "0 with attention=flex, which has none")

    @property
    def translates(self) -> bool:
        """Whether it has a decoder."""
        return False

    @property
    def head_names(self) -> tuple[str, ...]:
        """Heads of such a model."""
        return self.heads or (TOKEN,)


@section
class ModelConfig(ComputedModel):
    """Shape of the encoder; defaults are XLM-R base."""

    num_layers: Annotated[int, Range(least=1, most=1000)] = 12
    """Transformer layers: base 12, large 24."""
    hidden_size: Annotated[int, Range(least=1, most=2**16)] = 768
    """Width D of the hidden states: base 768, large 1024."""
    num_heads: Annotated[int, Range(least=1, most=2**16)] = 12
    """Attention heads; must divide hidden_size."""
    ffn_size: Annotated[int, Range(least=1, most=2**20)] = 3072
    """Width of the feed-forward layer, 4 D in the paper."""
    vocab_size: Annotated[int, Range(least=1, most=2**24)] | None = None
    """Vocabulary with special tokens; null takes the data's (XLM-R's tokenizer gives 250,002)."""
    num_languages: Annotated[int, Range(least=1, most=2**15)] | None = None
    """Languages with an embedding; null takes the data's."""
    max_positions: Annotated[int, Range(least=18, most=2**20)] = 514
    """Size of the position table; ids start at 2, so 514 allow 512 tokens."""
    language_embedding: Literal["masked", "all", "none"] = "masked"
    """Which tokens get a language embedding: only <mask>, all (XLM) or none."""
    decoder: Literal["separate", "shared"] | None = None
    """A decoder of as many layers, to translate (MT): with embeddings of its own (XLM) or the encoder's; null: none."""
    dropout: Annotated[float, Range(least=0, below=1, zero="none")] = 0.1
    """Dropout of hidden states; InfoXLM, which starts from XLM-R, has 0."""
    layer_norm_eps: Annotated[float, Range(above=0, most=1)] = 1e-5
    """Epsilon of layer norms."""
    initializer_range: Annotated[float, Range(above=0, most=1000)] = 0.02
    """Standard deviation of the initial weights; narrow models need more than BERT's 0.02 (docs/log/learning.md)."""

    def check(self) -> None:
        super().check()
        self.require(self.hidden_size % self.num_heads == 0, "num_heads", f"a divisor of hidden_size={self.hidden_size}")

    def resolved(self, vocab_size: int, num_languages: int) -> ModelConfig:
        """This shape with the data's vocabulary and languages. Raises InputError if it names others."""
        for key, of_data in (("vocab_size", vocab_size), ("num_languages", num_languages)):
            if getattr(self, key) not in (None, of_data):
                raise InputError(f"model.{key}: {getattr(self, key)}; expected {of_data}, the data's (or null)")
        return replace(self, vocab_size=vocab_size, num_languages=num_languages)

    @property
    def translates(self) -> bool:
        return self.decoder is not None

    @property
    def head_size(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def vocab(self) -> int:
        return self.vocab_size or XLM_R_VOCAB_SIZE


@section
class BackboneConfig(ComputedModel):
    """An encoder of transformers: its shape, its weights and its tokenizer are its folder's."""

    tag: ClassVar[str] = "backbone"
    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        set(hints_of(ModelConfig)) - set(hints_of(ComputedModel)),
        "with model.backbone the encoder has its own; leave it out, or take a recipe without a shape",
    )

    backbone: str
    """Hugging Face folder or hub id of the encoder to train, in the place of our own; its tokenizer must be the data's."""
    backbone_sha256: str | None = None
    """Of its files, so that it is this one; null takes what is there. A run records it."""
    dropout: Annotated[float, Range(least=0, below=1, zero="none")] | None = None
    """Dropout of hidden states; null leaves the encoder's own."""


AnyModel = BackboneConfig | ModelConfig


def read_model(content: Any, source: str) -> AnyModel:
    """A recipe's or a run's section `model`, whichever it is; InputError, which names `source`, for a wrong one."""
    cls, given = one_section(AnyModel, content)
    found: AnyModel = build(cls, given, source, "model.")
    return found


def longest_document(config: ModelConfig) -> int:
    """Most positions that one document may take."""
    return config.max_positions - FIRST_POSITION_ID
