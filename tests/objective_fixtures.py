"""The objectives whose sentences all come from the data; of the others tests/properties/test_own_pairs.py takes care."""

from __future__ import annotations

from ernie_m.rows.objective import GIVEN
from ernie_m.rows.objectives import OBJECTIVES

GIVEN_OBJECTIVES = {name: objective for name, objective in OBJECTIVES.items() if objective.source == GIVEN}
