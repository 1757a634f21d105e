"""Spikes are told from noise, the same after a restart; overflows in a row end a run with advice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.base.run_files import METRICS_FILE
from ernie_m.runs.metrics import LineLog, read_metrics
from ernie_m.training.divergence import LEAST_STEPS, GuardConfig, SkippedUpdates, Spike, SpikeDetector, non_finite_message

SPIKES = {(700, "CAMLM"): 1.5, (900, "MMLM"): 2.0, (901, "MMLM"): 2.0, (15, "MMLM"): 5.0}


def losses_of_a_run(num_steps: int, seed: int = 0) -> list[dict[str, float]]:
    """A falling loss with a heavy-tailed noise of 0.05, CAMLM from step 200 on, and SPIKES; a language's jump is none."""
    rng = np.random.default_rng(seed)
    losses = []
    for step in range(num_steps):
        level = 2 + 8 * math.exp(-step / 150)
        noise = 0.05 * rng.standard_t(10, size=2)
        line = {"loss/MMLM": level + noise[0]}
        if step >= 200:
            line["loss/CAMLM"] = level - 1 + noise[1]
        for (at, objective), height in SPIKES.items():
            if at == step:
                line[f"loss/{objective}"] += height
        line["loss/MMLM/en"] = line["loss/MMLM"] + (400.0 if step == 600 else 0.2)
        losses.append(line)
    return losses


def observed(detector: SpikeDetector, losses: list[dict[str, float]], first_step: int = 0) -> list[Spike]:
    return [spike for step, line in enumerate(losses, first_step) for spike in detector.observe(step, line)]


@pytest.mark.parametrize("seed", range(5))
def test_spikes_are_found_and_noise_and_learning_are_not(seed: int) -> None:
    spikes = observed(SpikeDetector(GuardConfig()), losses_of_a_run(2000, seed))
    assert {(s.step, s.objective) for s in spikes} == SPIKES.keys() - {(15, "MMLM")}, "before 20 steps nothing is told"
    for spike in spikes:
        assert spike.loss - spike.median == pytest.approx(SPIKES[spike.step, spike.objective], abs=0.4)
        assert spike.deviation > 8
        assert f"step {spike.step}: {spike.objective}" in str(spike)


def test_the_deviation_is_what_the_definition_says() -> None:
    level = [float(value) for value in (*range(1, 26), *range(1, 26))]
    detector = SpikeDetector(GuardConfig(spike_window=50))
    assert observed(detector, [{"loss/TLM": value} for value in level]) == []
    mad = float(np.median(np.abs(np.array(level) - 13)))
    just_above, just_below = 13 + 8.01 * 1.4826 * mad, 13 + 7.99 * 1.4826 * mad
    for loss, found in ((just_below, 0), (just_above, 1)):
        again = SpikeDetector(GuardConfig(spike_window=50))
        spikes = observed(again, [*({"loss/TLM": value} for value in level), {"loss/TLM": loss}])
        assert len(spikes) == found
    assert spikes == [Spike(50, "TLM", just_above, 13.0, pytest.approx(8.01))]


def test_a_constant_loss_makes_no_spike_of_a_trifle() -> None:
    flat = [{"loss/MMLM": 3.0}] * 40
    assert observed(SpikeDetector(GuardConfig()), [*flat, {"loss/MMLM": 3.07}]) == []
    assert len(observed(SpikeDetector(GuardConfig()), [*flat, {"loss/MMLM": 3.09}])) == 1


def test_a_level_that_stays_is_no_spike_for_ever() -> None:
    """The first half window of a new level is told, then it is the level."""
    spikes = observed(SpikeDetector(GuardConfig()), [{"loss/MMLM": 3.0}] * 200 + [{"loss/MMLM": 9.0}] * 200)
    assert [spike.step for spike in spikes] == list(range(200, 250))


def test_a_step_of_a_harder_language_is_no_spike_and_a_language_above_its_own_level_is() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.choice(["de-en", "fr-en", "br-fr"], size=600, p=[0.45, 0.45, 0.1])
    hard = {"de-en": 0.3, "fr-en": 0.5, "br-fr": 4.0}

    def line(stream: str, loss: float) -> dict[str, float]:
        return {"loss/XLCO": loss, f"loss/XLCO/{stream}": loss}

    losses = [line(stream, hard[stream] + 0.1 * noise) for stream, noise in zip(drawn, rng.normal(size=600), strict=True)]
    alone = [{"loss/XLCO": each["loss/XLCO"]} for each in losses]
    assert len(observed(SpikeDetector(GuardConfig()), alone)) > 10  # what the step's languages explain
    detector = SpikeDetector(GuardConfig())
    known = int(np.flatnonzero(drawn == "br-fr")[LEAST_STEPS - 1])
    assert all(spike.step <= known < 300 for spike in observed(detector, losses)), "until then it has no level of its own"
    after = [line("br-fr", 4.1), line("de-en", 4.1), line("fr-en", 0.5)]
    assert [spike.step for spike in observed(detector, after, 600)] == [601]
    both = {"loss/XLCO": 4.0, "loss/XLCO/de-en": 3.7, "loss/XLCO/br-fr": 4.3}
    assert [spike.objective for spike in observed(detector, [both], 603)] == ["XLCO"]
    new = line("gd-en", 4.1)
    assert len(observed(detector, [new] * 25, 604)) == LEAST_STEPS, "a new language has no level of its own that excuses it"


def test_threshold_0_tells_nothing() -> None:
    assert observed(SpikeDetector(GuardConfig(spike_threshold=0)), losses_of_a_run(1000)) == []


def test_what_is_not_finite_is_no_spike_and_leaves_the_level_alone() -> None:
    detector, plain = SpikeDetector(GuardConfig()), SpikeDetector(GuardConfig())
    losses = losses_of_a_run(400)
    holes: list[dict[str, Any]] = [{"loss/MMLM": math.nan}, {"loss/MMLM": math.inf}, {"loss/MMLM": None}]
    expected = observed(plain, [*losses, {"loss/MMLM": 50.0}])
    assert observed(detector, [*losses, *holes]) == []
    assert observed(detector, [{"loss/MMLM": 50.0}], 400) == expected != []


@pytest.mark.parametrize("resume_step", [0, 5, 19, 20, 21, 250, 700, 701, 902, 990])
def test_a_restart_does_not_change_a_verdict(tmp_path: Path, resume_step: int) -> None:
    """Through the real file, written further than the checkpoint from which the run goes on."""
    losses, config = losses_of_a_run(1000), GuardConfig(spike_window=60, spike_threshold=2)
    undisturbed = observed(SpikeDetector(config), losses)
    assert 5 < len(undisturbed) < 200, "enough verdicts to differ"
    log = LineLog(tmp_path / METRICS_FILE, 0)
    log.write([{"step": step + 1, **line, "tokens": 5} for step, line in enumerate(losses)])
    log.write([{"step": 1000, "cross_lingual_gain": 0.5, "held_out_loss/CAMLM": 99.0}])
    log.close()
    detector = SpikeDetector.from_lines(config, read_metrics(tmp_path), resume_step)
    assert observed(detector, losses[resume_step:], resume_step) == [s for s in undisturbed if s.step >= resume_step]


def test_a_line_of_the_metrics_is_read_back_to_the_last_bit() -> None:
    loss = losses_of_a_run(1)[0]["loss/MMLM"]
    assert json.loads(json.dumps(loss)) == loss


def test_overflows_in_a_row_stop_the_run_with_advice() -> None:
    updates = SkippedUpdates(most=3)
    for step, skipped in enumerate([True, True, False, True, False, True, True]):
        updates.record(step, skipped, 1.0)
    assert (updates.in_a_row, updates.total) == (2, 5)
    with pytest.raises(
        InputError, match=r"step 7: .*overflowed 3 times in a row \(loss scale now 0.5\).*since step 5"
    ) as told:
        updates.record(7, True, 0.5)
    for way_out in ("engine.precision=bf16", "optimizer.peak_learning_rate", "inspect_step --step 5", "--skip_steps 5:8"):
        assert way_out in str(told.value)


def test_what_is_not_finite_says_what_happened_and_the_ways_out() -> None:
    message = non_finite_message(1234, "the gradient norm")
    assert message.startswith("step 1234: the gradient norm is not finite; this update was not made")
    for part in ("newest checkpoint is from before", "peak_learning_rate", "precision=bf16", "--skip_steps 1234:1235"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("spike_window", LEAST_STEPS - 1), ("spike_threshold", -1.0), ("max_skipped_updates", 0)],
)
def test_guards_that_make_no_sense_are_refused(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{key}: {value}; expected"):
        GuardConfig(**{key: value})  # type: ignore[arg-type]
