"""A model of transformers as a backbone: hidden states of packed rows, under the one attention rule.

Other than in our own encoder, position ids start where the model's do, token types are 0, there is no language
embedding, and dropout is the model's unless another is given. A pooler, which no loss reaches, has no parameters but
buffers: ZeRO would wait for its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ernie_m.base.console import Choice, InputError
from ernie_m.base.sampling import key_of
from ernie_m.base.special_tokens import Specials
from ernie_m.models.attention import choose_attention
from ernie_m.models.backbones.changes import (
    attention_dropout_of,
    computed_buffers,
    keep_wanted,
    set_dropout,
    take_out_pooler,
)
from ernie_m.models.backbones.checks import check_class, check_rule_is_carried
from ernie_m.models.backbones.heads import HEADS, ForeignTokenHead, drawn, token_head
from ernie_m.models.backbones.rule import KEYWORD, RowsRead
from ernie_m.models.backbones.shape import shape_of
from ernie_m.models.heads import heads_for
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.sentence_head import SentenceHead
from ernie_m.models.shape import Pooling
from ernie_m.models.tied_gradient import TiedGradient, embedding_rows
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.objective import SENTENCE, TOKEN


class ForeignEncoder(PretrainingModel):
    """A model of transformers under our attention rule, with heads.

    The model's modules are used, not copied. `whole` shares them, so that it can be saved. Its own forward cannot be used
    any more, since its attention is ours. A copy's can, after `set_attn_implementation("sdpa")`.
    """

    backbone_prefix = "encoder."

    def __init__(
        self,
        model: Any,
        attention: str = "auto",
        device: torch.device | str = "cpu",
        attention_dropout: float | None = None,
        activation_checkpointing: bool = False,
        seed: int = 0,
        name: str = "",
        specials: Specials | None = None,
        heads: tuple[str, ...] = (TOKEN,),
        pooling: Pooling | None = None,
        dropout: float | None = None,
    ) -> None:
        """`model`: in fp32, with or without its masked-language head; it is tried on a few tokens, on its own device.

        `attention`, `device`, `activation_checkpointing`: as for our own encoder. `attention_dropout`, `dropout` (of hidden
        states): None: the model's. `seed`: for the weights of new heads. `name`: the model's name in errors. `specials`: of
        the data's vocabulary; None: XLM-R's. `heads`: those that its objectives need. `pooling`: of the sentence head.
        Raises InputError if the model is not an encoder, or cannot use the attention rule.
        """
        super().__init__()
        name = name or type(model).__name__
        check_class(model, name)
        self._outside = (model,)  # a tuple, so that its modules are not registered twice
        self.encoder: Any = model.base_model
        self.config: Any = model.config
        specials = specials or Specials.xlm_r(self.vocab_size)
        self.batch_first_position = specials.first_position
        self._rotations = computed_buffers(self.encoder)
        pooler = take_out_pooler(self.encoder)
        if dropout is not None:
            set_dropout(self.encoder, dropout, name)
        self.tied_words = _TiedWords(self.words)
        head, self.head_choice = token_head(model, self.words, seed, specials)
        words = cast(nn.Parameter, self.words.weight)
        with torch.random.fork_rng(devices=[]), words.device:
            given = {TOKEN: head, SENTENCE: SentenceHead(self.width, pooling)}
            self.heads = heads_for(heads, self.config, words, nn.LayerNorm, specials, given)
        for new in self.heads.keys() - {TOKEN}:
            drawn(self.heads[new], self.config, key_of(seed, "head", new) % 2**63)
        base = "" if model.base_model is model else f"{model.base_model_prefix}."
        trained = {*self.names_in_class().values()}
        unasked = (name for name, _ in model.named_parameters() if name not in trained)
        self.constants = (*(base + name for name in pooler), *unasked)
        """Names in `whole` of what training leaves as it is: a pooler, and its head of masked words if nothing asks that."""
        self.attention_dropout = attention_dropout_of(self.config) if attention_dropout is None else attention_dropout
        self.attention_choice = choose_attention(attention, torch.device(device), self.attention_dropout, self.head_size)
        check_rule_is_carried(self, name)
        if activation_checkpointing:
            if not self.encoder.supports_gradient_checkpointing:
                raise InputError(f"{name}: its class cannot recompute layers; set model.activation_checkpointing=false")
            model.gradient_checkpointing_enable({"use_reentrant": False})
        names = HEADS.get(self.config.model_type)
        if names is not None and names.last_attention:
            last_attention = self.encoder.get_submodule(names.last_attention.format(last=self.num_layers - 1))
            last_attention.register_forward_hook(keep_wanted, with_kwargs=True)
        self.shape = shape_of(self)
        self.train()  # transformers opens models for evaluation

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (self.attention_choice, self.head_choice) if TOKEN in self.heads else (self.attention_choice,)

    @property
    def head(self) -> ForeignTokenHead:
        """The head that predicts tokens."""
        return cast(ForeignTokenHead, self.heads[TOKEN])

    @property
    def whole(self) -> Any:
        """The model as it was given, sharing all its parameters."""
        return self._outside[0]

    @property
    def _position_table(self) -> nn.Embedding | None:
        named = self.encoder.named_modules()
        tables = (module for name, module in named if name.rpartition(".")[2] == "position_embeddings")
        return next((table for table in tables if isinstance(table, nn.Embedding)), None)

    @property
    def words(self) -> nn.Embedding:
        embedding: nn.Embedding = self.encoder.get_input_embeddings()
        return embedding

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        """Rows of the word table; the tokenizer may have fewer."""
        return self.words.num_embeddings

    @property
    def head_size(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self.width // self.config.num_attention_heads)

    @property
    def first_position(self) -> int:
        """Position id of a document's first token: the one after padding's if the position table has one, else 0."""
        table = self._position_table
        return 0 if table is None or table.padding_idx is None else table.padding_idx + 1

    @property
    def longest_document(self) -> int | None:
        """Most positions of a document; None if neither the position table nor the configuration sets a limit."""
        table = self._position_table
        if table is not None:
            return table.num_embeddings - self.first_position
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def windows(self) -> tuple[int, ...]:
        """How far layers with a sliding window read to each side: distinct, ascending; () if no layer has one."""
        said = {getattr(module, "sliding_window", None) for module in self.encoder.modules()}
        return tuple(sorted(window - 1 for window in said if isinstance(window, int)))

    def names_in_class(self) -> dict[str, str]:
        """Name here -> name in `whole`, of each parameter; parameters of new heads are left out."""
        of_class = {id(parameter): name for name, parameter in self.whole.named_parameters()}
        named = ((name, of_class.get(id(parameter))) for name, parameter in self.named_parameters())
        return {name: there for name, there in named if there is not None}

    def hidden_states(
        self,
        batch: PackedBatch[Tensor],
        layer: int | None = None,
        wanted_N: Tensor | None = None,
        tied: TiedGradient | None = None,
    ) -> Tensor:
        """Hidden states [B, S, D] after `layer` (0: embeddings; None: the last), numbered as in the class.

        `wanted_N`: flat positions in B x S; then only their states, [N, D]. `tied`: the object that the token head gets in
        the same forward; it is not used if the head is not tied.
        """
        is_last = layer in (None, self.num_layers)
        wanted_N = None if wanted_N is None else wanted_N.long()
        rows = self.rows_read(batch, wanted_N if is_last else None)
        hidden = self.states(rows, None if is_last else layer, tied)
        if wanted_N is None:
            return hidden
        return hidden[0] if rows.is_cut else hidden.flatten(0, 1)[wanted_N]

    def rows_read(self, batch: PackedBatch[Tensor], wanted_N: Tensor | None = None) -> RowsRead:
        """What the layers need to know of a micro-batch: who reads whom."""
        return RowsRead(batch, self.attention_choice.value, self.attention_dropout, wanted_N)

    def states(self, rows: RowsRead, layer: int | None = None, tied: TiedGradient | None = None) -> Tensor:
        """States after `layer` (None: the last), [B, S, D]; or [1, N, D] if `rows.is_cut` is true afterwards."""
        batch = rows.batch
        output = self._behind_layers(self._embedded(batch.input_ids_BS, tied), rows, layer)
        hidden: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
        return hidden

    def _behind_layers(self, words_BSD: Tensor, rows: RowsRead, layer: int | None) -> Any:
        position_BS = (rows.batch.position_ids_BS.long() - self.batch_first_position).clamp(min=0) + self.first_position
        return self.encoder(
            inputs_embeds=words_BSD,
            position_ids=position_BS,
            output_hidden_states=layer is not None,
            return_dict=True,
            **{KEYWORD: rows},
        )

    def _embedded(self, ids_BS: Tensor, tied: TiedGradient | None) -> Tensor:
        if tied is None or not self.head.is_tied:
            return self.words(ids_BS)
        rows: Tensor = self.tied_words(ids_BS, tied)
        return rows

    def compile_for(self, batch: PackedBatch[Tensor]) -> None:
        """As in PretrainingModel: one forward and backward through the layers, since each class has its own strides."""
        if self.attention_choice.value != "flex":
            return
        with torch.enable_grad():
            leaf = self.words(batch.input_ids_BS).detach().requires_grad_()
            rows = self.rows_read(batch)
            torch.autograd.grad(self._behind_layers(leaf, rows, None).last_hidden_state.sum(), leaf)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ForeignEncoder:
        """As torch's, but angles of rotary positions stay fp32: in bf16 they are off by a radian at position 500."""
        before = [module._buffers[name] for module, name in self._rotations]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for (module, name), buffer in zip(self._rotations, before, strict=True):
            moved = module._buffers[name]
            assert buffer is not None
            assert moved is not None
            module._buffers[name] = buffer.to(moved.device)
        return self


class _TiedWords(nn.Module):
    """Rows of the word embedding that leave their gradient to the head's.

    A module of its own, which has the Parameter: ZeRO 3 gathers what a module has when it is called.
    """

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.padding = words.weight, words.padding_idx

    def forward(self, ids: Tensor, tied: TiedGradient) -> Tensor:
        assert self.padding is not None
        return embedding_rows(ids, self.weight, self.padding, tied)
