"""The interface of a head: `Head`, and what it must predict: `Targets`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ernie_m.rows.batch import PackedBatch, Sources


@dataclass(frozen=True)
class Targets:
    """What one head must predict: N positions, flat in B x S and ascending in each row, and their labels, int32.

    `batch` is the micro-batch itself, for a head that looks at more than its own positions. `sources`: what these
    predictions read instead of their own states; None if there is none.
    """

    positions_N: Tensor
    labels_N: Tensor
    row_length: int
    batch: PackedBatch[Tensor] | None = None
    sources: Sources[Tensor] | None = None


class Head(nn.Module):
    """(states of the positions that it wants, targets) -> nll fp32 [N]."""

    def wants(self, targets: Targets) -> Tensor:
        """Flat positions in B x S whose states `forward` is given: those that are asked, unless a head needs others.

        Called outside of `forward`, so it may use none of the head's parameters.
        """
        return targets.positions_N
