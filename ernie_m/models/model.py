"""The encoder: XLM-R's architecture (post-LN) with a language embedding, and a tied MLM head on predicted positions.

Embedding = token + position + language. The language embedding is added to <mask> alone (`language_embedding:
masked`): masks and placeholders learn which language is wanted, real tokens stay free of it, and the exported model,
which has none, loses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ernie_m.base.config import Section, section
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range
from ernie_m.base.special_tokens import (
    FIRST_PIECE_ID,
    FIRST_POSITION_ID,
    NO_LANGUAGE,
    PAD_ID,
    XLM_R_VOCAB_SIZE,
    mask_id,
)
from ernie_m.models.attention import attend, build_mask, choose_attention, compile_attention
from ernie_m.models.gelu_linear import GeluLinear
from ernie_m.models.layer_norm import choose_layer_norm, layer_norm
from ernie_m.models.loss import fp32_linear, logits_at_a_time, metric_sums, predicted_nll, weighted_loss
from ernie_m.models.tied_gradient import TiedGradient, embedding_rows, tied_gradient
from ernie_m.rows.batch import Generation, LossRequest, PackedBatch

Norm = Callable[..., nn.Module]
"""(width, eps=...) -> a layer norm."""


@section
class ModelConfig(Section):
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
    """Which tokens carry their language: <mask> alone, all (XLM) or none."""
    dropout: Annotated[float, Range(least=0, below=1, zero="none")] = 0.1
    """Dropout of hidden states; 0 when starting from XLM-R (InfoXLM)."""
    attention_dropout: Annotated[float, Range(least=0, below=1, zero="none")] = 0.0
    """Dropout of attention weights; leaves the fast attention path."""
    attention: Literal["auto", "sdpa", "pieces", "flex"] = "auto"
    """Attention backend; auto takes flex on GPUs from sm80 on, sdpa on older ones, pieces on CPU."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""
    layer_norm_eps: Annotated[float, Range(above=0, most=1)] = 1e-5
    """Epsilon of layer norms."""
    initializer_range: Annotated[float, Range(above=0, most=1000)] = 0.02
    """Standard deviation of the initial weights; narrow models want more than BERT's 0.02 (docs/log.md)."""

    def check(self) -> None:
        self.require(self.hidden_size % self.num_heads == 0, "num_heads", f"a divisor of hidden_size={self.hidden_size}")
        flex_drops = self.attention == "flex" and self.attention_dropout > 0
        self.require(not flex_drops, "attention_dropout", "0 with attention=flex, which has none")

    def resolved(self, vocab_size: int, num_languages: int) -> ModelConfig:
        """This shape with the data's vocabulary and languages; InputError where it names others."""
        for key, of_data in (("vocab_size", vocab_size), ("num_languages", num_languages)):
            if getattr(self, key) not in (None, of_data):
                raise InputError(f"model.{key}: {getattr(self, key)}; expected {of_data}, the data's (or null)")
        return replace(self, vocab_size=vocab_size, num_languages=num_languages)

    @property
    def vocab(self) -> int:
        return self.vocab_size or XLM_R_VOCAB_SIZE


class Embeddings(nn.Module):
    """Token + position (+ language at masks), layer norm, dropout: ids [B, S] -> hidden [B, S, D]."""

    def __init__(self, config: ModelConfig, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.config = config
        self.word = nn.Embedding(config.vocab, config.hidden_size, padding_idx=PAD_ID)
        self.position = nn.Embedding(config.max_positions, config.hidden_size, padding_idx=PAD_ID)
        self.language = nn.Embedding(1 + (config.num_languages or 0), config.hidden_size, padding_idx=NO_LANGUAGE)
        self.norm = norm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, input_ids_BS: Tensor, position_ids_BS: Tensor, language_BS: Tensor, tied: TiedGradient | None = None
    ) -> Tensor:
        hidden_BSD = embedding_rows(input_ids_BS, self.word.weight, PAD_ID, tied) + self.position(position_ids_BS)
        if self.config.language_embedding == "masked":
            language_BS = language_BS * (input_ids_BS == mask_id(self.config.vocab))
        if self.config.language_embedding != "none":
            hidden_BSD = hidden_BSD + self.language(language_BS)
        return F.dropout(self.norm(hidden_BSD), self.config.dropout, self.training)


class Layer(nn.Module):
    """One post-LN transformer layer: hidden [B, S, D] -> hidden [B, S, D], or [N, D] of the positions that are wanted."""

    def __init__(self, config: ModelConfig, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attention_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn_in = nn.Linear(config.hidden_size, config.ffn_size)
        self.ffn_out = GeluLinear(config.ffn_size, config.hidden_size)
        self.ffn_norm = norm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_BSD: Tensor, mask: Any, wanted_N: Tensor | None = None) -> Tensor:
        B, S, D = hidden_BSD.shape
        split = (B, S, 3, self.config.num_heads, D // self.config.num_heads)
        query, key, value = self.qkv(hidden_BSD).view(split).permute(2, 0, 3, 1, 4)
        attention_dropout = self.config.attention_dropout if self.training else 0.0
        attended = attend(query, key, value, mask, attention_dropout).transpose(1, 2).reshape(B, S, D)
        hidden = hidden_BSD
        if wanted_N is not None:  # behind attention no position needs another
            attended, hidden = attended.flatten(0, 1)[wanted_N], hidden.flatten(0, 1)[wanted_N]
        hidden = self.attention_norm(hidden + self._dropped(self.attention_out(attended)))
        return self.ffn_norm(hidden + self._dropped(self.ffn_out(self.ffn_in(hidden))))

    def _dropped(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.config.dropout, self.training)


class MaskedLanguageHead(nn.Module):
    """Dense, GELU, layer norm, then the word embedding as output matrix, on selected positions only.

    The head registers the embedding's Parameter as its own: ZeRO-3 then gathers it when the head runs.
    """

    def __init__(self, config: ModelConfig, word_embedding: nn.Parameter, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder_weight = word_embedding
        self.decoder_bias = nn.Parameter(torch.zeros(config.vocab))

    def forward(self, hidden_ND: Tensor, labels_N: Tensor | None = None, tied: TiedGradient | None = None) -> Tensor:
        """With labels: nll fp32 [N]. Without: the likeliest real piece of each position, int32 [N] (no special token)."""
        hidden_ND = self.norm(F.gelu(self.dense(hidden_ND)))
        if labels_N is not None:
            return predicted_nll(hidden_ND, self.decoder_weight, self.decoder_bias, labels_N, tied)
        return self._likeliest(hidden_ND).to(torch.int32)

    def _likeliest(self, hidden_ND: Tensor) -> Tensor:
        """The maximum over slices of the vocabulary: the matrix is read once, and no slice's logits leave the cache.

        In fp32: bf16's eight bits leave dozens of words alike, of which the first in the vocabulary would be written.
        """
        end = len(self.decoder_weight) - 1  # <mask> is the last word
        width = max(1, logits_at_a_time(hidden_ND.device) // max(1, len(hidden_ND)))
        best_N = hidden_ND.new_full(hidden_ND.shape[:1], -torch.inf, dtype=torch.float32)
        piece_N = torch.full_like(best_N, FIRST_PIECE_ID, dtype=torch.long)
        for start in range(FIRST_PIECE_ID, end, width):
            words = slice(start, min(start + width, end))
            value_N, index_N = fp32_linear(hidden_ND, self.decoder_weight[words], self.decoder_bias[words]).max(dim=-1)
            piece_N = torch.where(value_N > best_N, index_N + start, piece_N)
            best_N = torch.maximum(best_N, value_N)
        return piece_N

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits [..., V]: for tests, export checks and small inputs."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), self.decoder_weight, self.decoder_bias)


class Encoder(nn.Module):
    """Embeddings, layers and head. Everything a rank asks of it goes through `forward`, as ZeRO-3 wants it."""

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config = config
        head_size = config.hidden_size // config.num_heads
        self.attention_choice = choose_attention(config.attention, torch.device(device), config.attention_dropout, head_size)
        self.layer_norm_choice = choose_layer_norm(torch.device(device))
        norm = layer_norm(self.layer_norm_choice.value)
        self.embeddings = Embeddings(config, norm)
        self.layers = nn.ModuleList(Layer(config, norm) for _ in range(config.num_layers))
        self.head = MaskedLanguageHead(config, cast(nn.Parameter, self.embeddings.word.weight), norm)

    def initialise(self, seed: int) -> Encoder:
        """Draw all weights from `seed`: normal(0, initializer_range), biases 0, norms 1, language embeddings 0."""
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "norm." in name:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                elif parameter.dim() == 1 or name == "embeddings.language.weight":
                    parameter.zero_()
                else:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0, self.config.initializer_range, generator=rng))
            self.embeddings.word.weight[PAD_ID].zero_()
            self.embeddings.position.weight[PAD_ID].zero_()
        return self

    def forward(self, batch: PackedBatch, request: LossRequest | None = None) -> tuple[Tensor, Tensor] | Tensor:
        """With a request: (loss, summed nll fp64 [M]). Without: stage 1 of BTMLM, pseudo tokens int32 [K]."""
        if request is None:
            assert batch.generation is not None
            first = stage_1(batch, batch.generation)
            return self.head(self.hidden_states(first, wanted_N=batch.generation.placeholders_K))
        tied = tied_gradient(batch.input_ids_BS)
        nll_N = self.head(self.hidden_states(batch, wanted_N=batch.predicted_N, tied=tied), batch.labels_N, tied)
        loss = weighted_loss(nll_N, batch.objective_N, request.scales_O)
        return loss, metric_sums(nll_N, batch.metric_N, request.num_metrics)

    def compile_for(self, batch: PackedBatch) -> None:
        """Compile what training on micro-batches of this one's shape needs: minutes, where something is compiled at all."""
        heads, dtype = self.config.num_heads, self.head.decoder_bias.dtype
        mask = build_mask(self.attention_choice.value, batch)
        compile_attention(mask, heads, self.config.hidden_size // heads, dtype)

    def hidden_states(
        self,
        batch: PackedBatch,
        layer: int | None = None,
        wanted_N: Tensor | None = None,
        tied: TiedGradient | None = None,
    ) -> Tensor:
        """Hidden states [B, S, D] behind `layer` (0: embeddings; default: the last).

        With `wanted_N`, flat positions in B x S, only theirs behind the last layer, [N, D]: what is not predicted or
        generated costs it no feed-forward. `tied` is for a loss by the head that was given the same.
        """
        mask = build_mask(self.attention_choice.value, batch)
        hidden = self.embeddings(batch.input_ids_BS, batch.position_ids_BS, batch.language_BS, tied)
        wanted_N = None if wanted_N is None else wanted_N.long()
        blocks = list(self.layers)[:layer]
        for number, block in enumerate(blocks, start=1):
            of_block = wanted_N if number == len(self.layers) else None
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, mask, of_block, use_reentrant=False)
            else:
                hidden = block(hidden, mask, of_block)
        return hidden


@contextlib.contextmanager
def without_training(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout inside the block; the model's mode is restored behind it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def stage_1(batch: PackedBatch, generation: Generation) -> PackedBatch:
    """The rows with placeholders as BTMLM's stage 1 reads them: nothing corrupted, its own reads table."""
    rows = generation.rows_R.long()
    return replace(
        batch,
        input_ids_BS=generation.input_ids_RS,
        reads_BS=generation.reads_RS,
        **{
            name: getattr(batch, name)[rows]
            for name in ("position_ids_BS", "language_BS", "document_BS", "group_BS", "horizon_BS")
        },
    )


def longest_document(config: ModelConfig) -> int:
    """Positions that one document may take."""
    return config.max_positions - FIRST_POSITION_ID
