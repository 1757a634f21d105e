"""The probe: the same model gives the same loss, another one is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.packing import PackedRow
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.runs.fragments import write_tensors
from ernie_m.training.checkpoint_probe import TOLERANCE, check_probe, make_probe, probe_loss, read_probe
from tests.objective_fixtures import GIVEN_OBJECTIVES

if TYPE_CHECKING:
    from conftest import EncoderOf

CPU = torch.device("cpu")
LENGTH = 128


@pytest.fixture(scope="module")
def data(corpus_folder: CorpusFolder) -> PretrainingData:
    stages = (StageConfig(steps=10, rows=dict.fromkeys(GIVEN_OBJECTIVES, 1.0)),)
    return PretrainingData(
        corpus_folder, DataConfig(sequence_length=LENGTH), Schedule(stages, len(GIVEN_OBJECTIVES)), seed=3
    )


def model_for(data: PretrainingData, encoder_of: EncoderOf, **shape: object) -> torch.nn.Module:
    return encoder_of(vocab_size=data.folder.manifest.vocab_size, num_languages=6, **shape)


def test_a_probe_is_a_short_row_of_the_step_and_follows_from_it_alone(data: PretrainingData) -> None:
    probe = make_probe(data, 4)
    rows, length = probe["input_ids_BS"].shape
    assert (rows, length % 32) == (1, 0)
    assert length <= 64, "training waits for it"
    assert len(probe["labels_N"]) > 0
    lengths = sorted(len(d) for address in data.schedule.rows_of_step(4) for d in data.row(address).documents)
    assert (probe["document_BS"] == 0).sum() <= lengths[len(lengths) // 2]
    again, other = make_probe(data, 4), make_probe(data, 5)
    assert all(torch.equal(probe[key], again[key]) for key in probe)
    assert not torch.equal(probe["input_ids_BS"], other["input_ids_BS"])


def without_text(data: PretrainingData, empty: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these rows of a step hold no text."""
    original, nothing = data.row, PackedRow([], 0, 0)
    names = [address.objective for address in data.schedule.rows_of_step(4)]
    monkeypatch.setattr(
        data, "row", lambda address: nothing if names.index(address.objective) in empty else original(address)
    )


@pytest.mark.parametrize("empty", [{0}, {4}, {0, 4}, {0, 1, 2, 4}])
def test_a_probe_is_found_wherever_the_step_predicts_anything(
    data: PretrainingData, empty: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_text(data, empty, monkeypatch)
    probe = make_probe(data, 4)
    assert len(probe["labels_N"]) > 0
    assert set(probe["loss_N"].tolist()).isdisjoint(empty)


def test_a_step_that_predicts_nothing_is_said_to(data: PretrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    without_text(data, set(range(len(GIVEN_OBJECTIVES))), monkeypatch)
    with pytest.raises(InputError, match=r"no row of step 4 holds a token to predict.*inspect_step --step 4") as caught:
        make_probe(data, 4)
    assert "\n" not in str(caught.value)


def test_a_stored_probe_gives_the_same_loss_bit_for_bit(
    data: PretrainingData, encoder_of: EncoderOf, tmp_path: Path
) -> None:
    model, probe = model_for(data, encoder_of), make_probe(data, 4)
    write_tensors(tmp_path / "probe.safetensors", probe)
    loss = probe_loss(model, probe, CPU)
    assert math.isfinite(loss)
    assert loss > 1
    assert probe_loss(model, read_probe(tmp_path / "probe.safetensors"), CPU) == loss


def test_replaying_leaves_no_trace(data: PretrainingData, encoder_of: EncoderOf) -> None:
    """Neither dropout nor random numbers nor gradients, and the model's mode is as before."""
    model, probe = model_for(data, encoder_of, dropout=0.5).train(), make_probe(data, 4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    losses = {probe_loss(model, probe, CPU) for _ in range(3)}
    assert len(losses) == 1
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "name", ["embeddings.word", "embeddings.position", "layers.1", "heads.token.dense", "heads.token.decoder_bias"]
)
def test_a_model_that_is_not_the_saved_one_is_refused(data: PretrainingData, encoder_of: EncoderOf, name: str) -> None:
    """Each part of the model weighs in: another value there, and the check sees it."""
    model, probe = model_for(data, encoder_of), make_probe(data, 4)
    saved = probe_loss(model, probe, CPU)
    check_probe(saved, probe_loss(model, probe, CPU), "fp32", Path("x"))
    with torch.no_grad():
        for _, parameter in [pair for pair in model.named_parameters() if pair[0].startswith(name)]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(InputError, match="what was loaded is not what was trained"):
        check_probe(saved, probe_loss(model, probe, CPU), "fp32", Path("x"))


@pytest.mark.parametrize("precision", TOLERANCE)
def test_rounding_passes_and_more_does_not(precision: str) -> None:
    tolerance = TOLERANCE[precision]
    for saved in (0.01, 1.0, 9.5):
        allowed = tolerance * max(1.0, saved)
        check_probe(saved, saved + 0.9 * allowed, precision, Path("x"))
        check_probe(saved, saved - 0.9 * allowed, precision, Path("x"))
        for replayed in (saved + 1.1 * allowed, saved - 1.1 * allowed, float("nan"), float("inf")):
            with pytest.raises(InputError, match=r"step_7: its probe row gave a loss of .* Remove this checkpoint"):
                check_probe(saved, replayed, precision, Path("step_7"))
    check_probe(float("nan"), float("nan"), precision, Path("x"))
    with pytest.raises(InputError, match="probe row"):
        check_probe(float("nan"), 5.0, precision, Path("x"))
