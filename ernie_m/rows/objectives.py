"""THE table of objectives: who reads whom, what is corrupted, and what is predicted from which states.

What an entry says, and what is refused: ernie_m.rows.objective. docs/objectives.md draws all of them,
docs/add_an_objective.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ernie_m.rows.corruption import INSERT, NOTHING, REPLACE
from ernie_m.rows.objective import ALIGNED, HEADS, LINKED, NEXT, NOISED, SENTENCE, SENTENCES, WRITTEN, Objective, Prediction

MMLM = Objective("MMLM", 1, REPLACE, ("X",), {"X": "X"}, (Prediction("MMLM"),), merges_lines=True)

TLM = Objective("TLM", 2, REPLACE, ("X", "Y"), {"X": "X Y", "Y": "X Y"}, (Prediction("TLM"),))

# Figure 1 and the worked example p(x2 | M2, y4, y5, y6, y7) of the paper: docs/decisions/0002.
CAMLM = Objective(
    "CAMLM",
    2,
    INSERT,
    groups=("X", "Y", "MX", "MY"),
    reads={"X": "X", "Y": "Y", "MX": "Y MX", "MY": "X MY"},
    predictions=(Prediction("CAMLM"),),
)

BTMLM = Objective(
    "BTMLM",
    1,
    REPLACE,
    groups=("X", "P"),
    reads={"X": "X P", "P": "X P"},
    predictions=(Prediction("BTMLM"),),
    generation_reads={"X": "X", "P": "X P"},
)

CLM = Objective("CLM", 1, NOTHING, ("X",), {"X": "X"}, (Prediction("CLM", asked=NEXT),), causal=("X",), merges_lines=True)

# InfoXLM (arXiv 2007.07834, section 3.3): which of the other sentences in the row is the translation of this one?
XLCO = Objective(
    "XLCO",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "Y"},
    predictions=(Prediction("XLCO", SENTENCE, SENTENCES),),
    apart=True,
)

# A prefix language model (T5, arXiv 1910.10683, section 3.2.1) over a pair: the target reads the source and its own past.
PLM = Objective(
    "PLM",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "X Y"},
    predictions=(Prediction("PLM", asked=NEXT),),
    causal=("Y",),
)

# Translation (XLM, arXiv 1901.07291, section 5.2): an encoder reads the source, a decoder that and the target's own past.
MT = Objective(
    "MT",
    2,
    NOTHING,
    groups=("X", "Y"),
    reads={"X": "X", "Y": "X Y"},
    predictions=(Prediction("MT", asked=NEXT),),
    causal=("Y",),
    apart=True,
    halves=True,
)

# Denoising (arXiv 1901.07291, section 5.2; noise of arXiv 1711.00043): a text from itself, words moved, dropped, blanked.
AE = replace(MT, name="AE", predictions=(Prediction("AE", asked=NEXT),), source=NOISED)

# On-line back-translation (arXiv 1901.07291, section 5.2): a text from what the model makes of it in another language.
BT = replace(MT, name="BT", predictions=(Prediction("BT", asked=NEXT),), source=WRITTEN)

# Bilingual alignment pre-training (arXiv 2106.01732, equations 1-8): a TLM row; a masked token with links is predicted once
# more, from the states of the tokens that it is linked with.
ALIGNLM = Objective(
    "AlignLM",
    2,
    REPLACE,
    groups=("X", "Y"),
    reads={"X": "X Y", "Y": "X Y"},
    predictions=(Prediction("AlignLM"), Prediction("AlignLM_bilingual", ALIGNED, LINKED)),
)

OBJECTIVES: dict[str, Objective] = {o.name: o for o in (MMLM, TLM, CAMLM, BTMLM, CLM, XLCO, PLM, MT, ALIGNLM, AE, BT)}
OBJECTIVE_INDEX: dict[str, int] = {name: index for index, name in enumerate(OBJECTIVES)}
"""Number of each objective."""
PREDICTIONS: dict[str, Prediction] = {p.loss: p for objective in OBJECTIVES.values() for p in objective.predictions}
"""Each prediction, by the name of its loss; those of one objective follow each other."""
LOSS_INDEX: dict[str, int] = {name: index for index, name in enumerate(PREDICTIONS)}
"""Number of each loss."""
assert len(PREDICTIONS) == sum(len(objective.predictions) for objective in OBJECTIVES.values()), "two losses share a name"


def heads_of(objectives: Iterable[str]) -> tuple[str, ...]:
    """Heads that these objectives need, in the order of HEADS."""
    asked = {prediction.head for name in objectives for prediction in OBJECTIVES[name].predictions}
    return tuple(head for head in HEADS if head in asked)
