"""What a model remembers while it writes targets, and who reads what of it.

1. What all beams of a source have written stands in one list of slots, side by side, K more with each step. A token that
   several beams have behind them is there once.
2. `reads` says which slots each beam has behind it. A beam that goes on from another reads what that one reads: nothing that
   layers remember is moved.
3. Layers see the open beams alone, as rows; attention sees all places of [B, K] (Grid), since it works source by source.
4. Sentences that have ended leave. Slots that no open beam reads any more are let go when they are half of all.

Letters: B sources, K beams of each, R rows (open beams), T slots, S source tokens, H heads of E numbers, D = H x E.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_TOKEN = -1
"""In slots of sources, which are not written."""
LOOK_AT = 16
"""Steps after which slots that no open beam reads are looked for first."""


@dataclass(frozen=True)
class Grid:
    """The places of [B, K] that are computed: `rows_R`, flat; None: all of them."""

    shape: tuple[int, int]
    rows_R: Tensor | None = None

    @staticmethod
    def of(is_computed_BK: Tensor) -> Grid:
        """On a GPU all places are computed: to find these, the host would have to wait for it."""
        B, K = is_computed_BK.shape
        if is_computed_BK.device.type != "cpu" or bool(is_computed_BK.all()):
            return Grid((B, K))
        return Grid((B, K), is_computed_BK.flatten().nonzero()[:, 0])

    def rows(self, of_places: Tensor) -> Tensor:
        """[B, K, ...] -> [R, ...]."""
        flat = of_places.flatten(0, 1)
        return flat if self.rows_R is None else flat.index_select(0, self.rows_R)

    def places(self, of_rows: Tensor, elsewhere: float = 0.0) -> Tensor:
        """[R, ...] -> [B, K, ...], with `elsewhere` at places that are not computed."""
        (B, K), rest = self.shape, of_rows.shape[1:]
        if self.rows_R is not None:
            of_rows = of_rows.new_full((B * K, *rest), elsewhere).index_copy_(0, self.rows_R, of_rows)
        return of_rows.view(B, K, *rest)


@dataclass
class LayerPast:
    """What one layer remembers: keys and values of the slots, with room for more; `across`: of the sources, [B, H, S, E]."""

    keys_BHTE: Tensor
    values_BHTE: Tensor
    across: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def empty(num_sources: int, room: int, num_heads: int, like_RD: Tensor) -> LayerPast:
        """Room for so many slots of each source, in the precision of these states."""
        shape = (num_sources, num_heads, room, like_RD.shape[1] // num_heads)
        return LayerPast(like_RD.new_empty(shape), like_RD.new_empty(shape))

    def with_slots(self, first: int, key_BHKE: Tensor, value_BHKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all slots up to these, which begin at `first`."""
        end = first + key_BHKE.shape[2]
        self.keys_BHTE[:, :, first:end], self.values_BHTE[:, :, first:end] = key_BHKE, value_BHKE
        return self.keys_BHTE[:, :, :end], self.values_BHTE[:, :, :end]

    def keep_sources(self, sources_N: Tensor, end: int) -> None:
        """Only these sources go on. What is kept of slots up to `end` moves to the front of the room."""
        if self.across is not None:
            key_BHSE, value_BHSE = self.across
            self.across = key_BHSE[sources_N], value_BHSE[sources_N]
        for room_BHTE in (self.keys_BHTE, self.values_BHTE):
            room_BHTE[: len(sources_N), :, :end] = room_BHTE[sources_N, :, :end]
        self.keys_BHTE, self.values_BHTE = (room[: len(sources_N)] for room in (self.keys_BHTE, self.values_BHTE))

    def keep_slots(self, slots_BT: Tensor) -> None:
        """Only these slots of each source are kept, in this order."""
        every_B1 = torch.arange(len(slots_BT), device=slots_BT.device)[:, None]
        for room_BHTE in (self.keys_BHTE, self.values_BHTE):
            room_BHTE[:, :, : slots_BT.shape[1]] = room_BHTE[every_B1, :, slots_BT].transpose(1, 2)


class Past:
    """What all layers remember of B sources, and what each beam reads of it.

    `reads_BKT` and `across_B11S` are added to attention's logits: 0 where a token is read, -inf where not.
    """

    def __init__(self, layers: list[LayerPast], across_B11S: Tensor, beams: int) -> None:
        self.layers, self.across_B11S, self.end = layers, across_B11S, 0
        (B, _, room, _), device = layers[0].keys_BHTE.shape, across_B11S.device
        self.reads_BKT = across_B11S.new_full((B, beams, room), -torch.inf)
        self.token_BT = torch.full((B, room), NO_TOKEN, device=device)
        self._look_at = LOOK_AT * beams

    def begin_with_sources(self) -> None:
        """The first slots are the tokens of the sources."""
        self.end = self.across_B11S.shape[-1]
        self.reads_BKT[:, :, : self.end] = self.across_B11S[:, 0]

    def add(self, token_BK: Tensor) -> None:
        """A slot for a token behind each beam, which reads it."""
        first, self.end = self.end, self.end + token_BK.shape[1]
        self.token_BT[:, first : self.end] = token_BK
        self.reads_BKT[:, :, first : self.end].diagonal(dim1=1, dim2=2).zero_()

    @property
    def newest(self) -> int:
        """The first of the slots that were added last."""
        return self.end - self.reads_BKT.shape[1]

    @property
    def reads(self) -> Tensor:
        """Of the slots so far, as attention takes it: [B, 1, K, T]."""
        return self.reads_BKT[:, None, :, : self.end]

    def follow(self, parent_BK: Tensor) -> None:
        """Each beam goes on from its parent."""
        reads_BKT = self.reads_BKT[:, :, : self.end]
        reads_BKT.copy_(reads_BKT.gather(1, parent_BK[:, :, None].expand_as(reads_BKT)))

    def written(self, sources_N: Tensor, beams_N: Tensor, num_tokens: int) -> Tensor:
        """The tokens of these beams, so many of each, [N, tokens], without the first, which no model has written."""
        token_NT = self.token_BT[sources_N, : self.end]
        is_own_NT = (self.reads_BKT[sources_N, beams_N, : self.end] == 0) & (token_NT != NO_TOKEN)
        return token_NT[is_own_NT].view(len(sources_N), 1 + num_tokens)[:, 1:]

    def keep_sources(self, sources_N: Tensor) -> None:
        """Only these sources go on."""
        for layer in self.layers:
            layer.keep_sources(sources_N, self.end)
        self.across_B11S, self.reads_BKT = self.across_B11S[sources_N], self.reads_BKT[sources_N]
        self.token_BT = self.token_BT[sources_N]

    def let_go(self, is_open_BK: Tensor) -> None:
        """Let slots go that no open beam reads, if they are half of all."""
        if self.end < self._look_at:
            return
        reads_BKT, token_BT = self.reads_BKT[:, :, : self.end], self.token_BT[:, : self.end]
        is_read_BT = ((reads_BKT == 0) & is_open_BK[:, :, None]).any(dim=1)
        most = int(is_read_BT.sum(dim=1).max())
        self._look_at = max(2 * most, self.end)
        if 2 * most > self.end:
            return
        slots_BT = (~is_read_BT).int().argsort(dim=1, stable=True)[:, :most]
        kept_BKT, kept_BT = (
            reads_BKT.gather(2, slots_BT[:, None].expand(-1, reads_BKT.shape[1], -1)),
            token_BT.gather(1, slots_BT),
        )
        reads_BKT.fill_(-torch.inf)
        reads_BKT[:, :, :most], token_BT[:, :most] = kept_BKT, kept_BT
        for layer in self.layers:
            layer.keep_slots(slots_BT)
        self.end = most
