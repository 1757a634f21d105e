"""Draw docs/objectives.png: who reads whom for each objective, evaluated from the table itself.

python docs/draw_objectives.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, Specials, mask_id
from ernie_m.rows.attention_rule import attention_rule, dense_mask
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, CAMLM, CLM, MMLM, PLM, TLM, XLCO
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.show.attention_pictures import draw_rule

VOCAB_SIZE = 50
X, Y = np.array([11, 12, 13], np.int32), np.array([21, 22, 23, 24], np.int32)
CORRUPTION = CorruptionConfig(mask_rate=0.45, pseudo_token_share=0.20)


def panels() -> list[tuple[str, np.ndarray, list[str]]]:
    """Title, mask and token labels of each objective on one small example."""
    drawn = []
    for title, objective, stage_1 in (
        ("MMLM", MMLM, False),
        ("TLM, AlignLM", TLM, False),
        ("CAMLM", CAMLM, False),
        ("BTMLM stage 1", BTMLM, True),
        ("BTMLM stage 2", BTMLM, False),
        ("CLM", CLM, False),
        ("XLCO", XLCO, False),
        ("PLM", PLM, False),
    ):
        drawn.append((title, *mask_and_labels(objective, stage_1)))
    return drawn


def mask_and_labels(objective: Objective, stage_1: bool) -> tuple[np.ndarray, list[str]]:
    """The dense mask of one document, and what each position shows."""
    sentences = (np.concatenate([X, Y[:3] + 1]),) if objective.is_pseudo_parallel else (X, Y)[: objective.num_sentences]
    example = Example(sentences, (1, 2)[: len(sentences)])
    document = Layout(objective, CORRUPTION, Specials.xlm_r(VOCAB_SIZE)).lay_out(example, key=5, target_language=2)
    if stage_1:
        document = replace(document, input_ids=document.generation_ids, reads=document.generation_reads)
    batch = pack([PackedRow([document], 0, 0)], len(document))
    rule = attention_rule(batch.document_BS, batch.group_BS, batch.reads_BS, batch.horizon_BS)
    mask = dense_mask(rule, np.arange(1), np.arange(len(document)))[0, 0]
    labels = []
    for index, (token, position) in enumerate(zip(document.input_ids, document.position_ids, strict=True)):
        name = {BOS_ID: "<s>", EOS_ID: "</s>", mask_id(VOCAB_SIZE): "M"}.get(
            int(token), "xy"[int(document.group[index] % 2)]
        )
        if index in document.placeholders and not stage_1:
            name = "h"
        labels.append(name if name.startswith("<") else f"{name}{position - 1}")
    return mask, labels


def main() -> None:
    figure, axes = pyplot.subplots(2, 4, figsize=(17, 8.8), layout="constrained")
    for axis, (title, mask, labels) in zip(axes.flat, panels(), strict=True):
        draw_rule(axis, mask, labels, labels)
        axis.set_title(title)
    figure.suptitle("Who reads whom (dark: reads), subscripts are positions; M mask, h pseudo token", fontsize=11)
    figure.savefig(Path(__file__).with_name("objectives.png"), dpi=90)


if __name__ == "__main__":
    main()
