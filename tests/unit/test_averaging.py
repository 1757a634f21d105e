"""Averaging with the start: `keep` is its share, exact at both ends; what it lacked is as trained."""

from __future__ import annotations

import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.interop.averaging import averaged

RNG = torch.Generator().manual_seed(0)
TRAINED = {"word": torch.randn(5, 3, generator=RNG), "head": torch.randn(3, generator=RNG)}
START = {"word": torch.randn(5, 3, generator=RNG), "head": torch.randn(3, generator=RNG)}


def test_keep_is_the_share_of_the_start() -> None:
    found = averaged(TRAINED, START, 0.3)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, START[name] + 0.7 * (TRAINED[name] - START[name]))


@pytest.mark.parametrize(("keep", "expected"), [(0.0, TRAINED), (1.0, START)])
def test_both_ends_are_bit_for_bit(keep: float, expected: dict[str, torch.Tensor]) -> None:
    found = averaged(TRAINED, START, keep)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_the_start_lacked_is_as_trained() -> None:
    found = averaged(TRAINED, START, 0.5, fresh=("head",))
    assert torch.equal(found["head"], TRAINED["head"])
    assert not torch.equal(found["word"], TRAINED["word"])


def test_two_models_are_refused_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"^head: \[3\] in the trained weights, missing in the start's; expected two states"
    ):
        averaged(TRAINED, {"word": START["word"]}, 0.5)
    with pytest.raises(InputError, match=r"^word: \[5, 3\] in the trained weights, \[4, 3\] in the start's"):
        averaged(TRAINED, START | {"word": torch.zeros(4, 3)}, 0.5)
