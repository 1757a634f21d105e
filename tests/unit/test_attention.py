"""All backends give the same numbers, and the choice between them gives its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

from ernie_m.base.console import InputError
from ernie_m.models.attention import attend, build_mask, choose_attention, few_shapes
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.attention_rule import attention_rule, closure, dense_mask, group_bits
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, CAMLM

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf, StagesOf

S = 128


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_is_sdpa_is_plain_attention(
    objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf, stages_of: StagesOf
) -> None:
    batch = batch_of(objective, documents_of(objective), S)
    rng = torch.Generator().manual_seed(0)
    for stage in stages_of(batch):
        query, key, value = (torch.randn(2, 3, S, 16, generator=rng) for _ in range(3))
        dense, blocks = build_mask("sdpa", stage), build_mask("flex", stage)
        assert isinstance(blocks, BlockMask)
        assert dense.dtype == torch.bool
        expected = plain_attention(query, key, value, dense)
        with torch.no_grad():
            torch.testing.assert_close(attend(query, key, value, dense, 0.0), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(attend(query, key, value, blocks, 0.0), expected, rtol=1e-5, atol=1e-5)
        everything = plain_attention(query, key, value, torch.ones_like(dense))
        assert (everything - expected).abs().max() > 0.1, "the mask must matter"


def test_flex_blocks_are_skipped_where_nobody_reads(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(CAMLM, [documents_of(CAMLM)[0]], 512)
    assert build_mask("flex", batch).sparsity() > 50


def test_the_rule_is_the_same_in_numpy_and_torch(objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(objective, documents_of(objective), 64)
    arrays = [np.asarray(getattr(batch, f"{name}_BS")) for name in ("document", "group", "reads", "horizon")]
    in_numpy = dense_mask(attention_rule(*arrays), np.arange(2), np.arange(64))
    assert np.array_equal(in_numpy, build_mask("sdpa", batch).numpy())
    assert in_numpy.shape == (2, 1, 64, 64)


def test_group_bits_number_the_groups_in_order() -> None:
    assert group_bits(CAMLM.groups, CAMLM.reads) == {"X": 0b0001, "Y": 0b0010, "MX": 0b0110, "MY": 0b1001}
    assert group_bits(BTMLM.groups, BTMLM.generation_reads or {}) == {"X": 0b01, "P": 0b11}


def test_closure_follows_chains_and_contains_itself() -> None:
    assert closure({"A": "B", "B": "C", "C": "", "D": "D"}) == {
        "A": {"A", "B", "C"},
        "B": {"B", "C"},
        "C": {"C"},
        "D": {"D"},
    }


def test_attention_dropout_changes_training_alone(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(CAMLM, documents_of(CAMLM))
    model = encoder_of(attention_dropout=0.5)
    with torch.no_grad():
        assert torch.equal(model.hidden_states(batch), model.hidden_states(batch))
        model.train()
        assert not torch.equal(model.hidden_states(batch), model.hidden_states(batch))


def test_on_the_CPU_pieces_are_chosen_and_flex_refused() -> None:
    cpu = torch.device("cpu")
    assert str(choose_attention("auto", cpu)) == "attention: pieces (cpu device; flex trains on CUDA only)"
    assert str(choose_attention("pieces", cpu)) == "attention: pieces (asked for)"
    assert str(choose_attention("sdpa", cpu)) == "attention: sdpa (asked for)"
    with pytest.raises(InputError, match=r"model.attention=flex: not possible here \(cpu device.*use auto or sdpa"):
        choose_attention("flex", cpu)


@pytest.mark.parametrize(
    ("name", "capability", "value", "reason"),
    [
        ("Tesla V100", (7, 0), "sdpa", "Tesla V100 is sm70; flex needs sm80"),
        ("NVIDIA A100", (8, 0), "flex", "CUDA, sm80 or later"),
        ("NVIDIA H200", (9, 0), "flex", "CUDA, sm80 or later"),
    ],
)
def test_the_GPU_decides_and_the_reason_names_it(
    name: str, capability: tuple[int, int], value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    choice = choose_attention("auto", torch.device("cuda", 0))
    with pytest.raises(InputError, match=r"model.attention=pieces: not possible here \(cuda device; .* use auto or sdpa"):
        choose_attention("pieces", torch.device("cuda", 0))
    assert (choice.value, choice.reason) == (value, reason)
    if value == "sdpa":
        with pytest.raises(InputError, match="sm70; flex needs sm80"):
            choose_attention("flex", torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; flex has none"),
        ({"head_size": 8}, "heads of 8; flex needs 16 or more"),
    ],
)
def test_what_flex_cannot_do_makes_it_no_candidate(
    needs: dict[str, float], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    choice = choose_attention("auto", torch.device("cuda", 0), **needs)  # type: ignore[arg-type]
    assert (choice.value, choice.reason) == ("sdpa", reason)
    with pytest.raises(InputError, match=rf"model.attention=flex: not possible here \({reason}\); use auto or sdpa"):
        choose_attention("flex", torch.device("cuda", 0), **needs)  # type: ignore[arg-type]


def test_the_encoder_asks_for_a_backend_that_can_do_what_it_is_configured_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    shape = {"num_layers": 1, "hidden_size": 64, "num_heads": 4, "ffn_size": 8, "vocab_size": 101, "num_languages": 2}
    found = {
        (rate, heads): Encoder(ModelConfig(**shape | {"attention_dropout": rate, "num_heads": heads}), "cuda")  # type: ignore
        for rate, heads in ((0.0, 4), (0.1, 4), (0.0, 8))
    }
    assert {key: model.attention_choice.value for key, model in found.items()} == {
        (0.0, 4): "flex",
        (0.1, 4): "sdpa",
        (0.0, 8): "sdpa",
    }


def test_flex_has_one_shape_that_of_training(documents_of: DocumentsOf, batch_of: BatchOf, stages_of: StagesOf) -> None:
    """Generation, probes and evaluations have no gradient: of whatever shape they are, no kernel is compiled for them."""
    batch = batch_of(BTMLM, documents_of(BTMLM), S)
    assert isinstance(build_mask("flex", batch), BlockMask)
    with torch.no_grad():
        for stage in stages_of(batch):
            assert torch.equal(build_mask("flex", stage), build_mask("sdpa", stage))


def test_a_shape_too_many_is_a_line_never_an_unfused_kernel() -> None:
    kernel = torch.compile(lambda x: 2 * x, dynamic=False, fullgraph=True, backend="eager")

    def train() -> None:
        with few_shapes():
            for length in range(1, 5):
                kernel(torch.zeros(length))

    expected = pytest.raises(InputError, match=r"flex for 2 shapes.*set model\.attention=sdpa")
    with torch._dynamo.config.patch(recompile_limit=2), expected:
        train()
