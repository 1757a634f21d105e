"""The plan before a job: known costs, what ZeRO and checkpointing save, the largest micro-batch, advice, one-line errors."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ernie_m.base import devices
from ernie_m.base.config import build, merge_overrides, read_recipe
from ernie_m.base.console import InputError
from ernie_m.base.hostfile import read_hostfile
from ernie_m.commands import plan as command
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.models import flops, loss
from ernie_m.models.shape import ModelConfig
from ernie_m.models.size import parameter_count
from ernie_m.planning import memory, speed, step
from ernie_m.planning.memory import MOMENTS, MicroBatch, Sharding, moments, peak, standing, total
from ernie_m.planning.plan import Job, _spread, best, bucket_elements, keys_read, needed_flops, plan_for, plans
from ernie_m.planning.reading import counted_keys
from ernie_m.planning.report import report
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.objective import TOKEN
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.training.recipe import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
BASE = ModelConfig()
LARGE = ModelConfig(num_layers=24, hidden_size=1024, num_heads=16, ffn_size=4096, dropout=0.0)


def job_of(recipe: str, hostfile: str, device: str, *overrides: str) -> Job:
    path = ROOT / "launcher/recipes" / f"{recipe}.yaml"
    config = build(TrainingConfig, merge_overrides(read_recipe(path), overrides), str(path))
    hosts = read_hostfile(ROOT / "hostfiles" / hostfile)
    assert isinstance(config.shape, ModelConfig)
    return Job(config, config.shape, hosts, devices.device_named(device), bucket_elements(ROOT / "ds_configs"))


def test_costs_are_those_of_the_published_arithmetic() -> None:
    """GFLOP a token of trunk and head, large and base: docs and literature agree on these."""
    assert flops.trunk_flops(LARGE, 512) == pytest.approx(1.965e9, rel=2e-3)
    assert flops.head_flops(LARGE) == pytest.approx(1.54e9, rel=5e-3)
    assert flops.trunk_flops(BASE, 512) == pytest.approx(0.567e9, rel=2e-3)
    assert 0.15 * flops.head_flops(BASE) == pytest.approx(0.173e9, rel=1e-2)


def test_64_V100_take_two_thirds_of_a_second_for_a_step_of_large_at_53_TFLOPs() -> None:
    tokens = 2048 * 512 / 64
    assert flops.needed_flops(LARGE, tokens, 512 * tokens, {TOKEN: 0.15 * tokens}) / 53e12 == pytest.approx(0.68, abs=0.01)


def test_checkpointing_and_chunks_compute_a_third_again_and_generation_is_a_forward() -> None:
    work = speed.Work(1000, 512, 0.15, 0.0, 0.1, 1000)  # few a micro-batch: one chunk of logits
    trunk, head = flops.trunk_flops(LARGE, 512), 0.15 * flops.head_flops(LARGE)
    left_out = 6 * (LARGE.hidden_size**2 + 2 * LARGE.hidden_size * LARGE.ffn_size)  # behind the last attention
    plain = speed.hardware_flops(LARGE, work)
    assert plain == pytest.approx(1000 * (trunk - 0.85 * left_out + head))
    again = speed.hardware_flops(replace(LARGE, activation_checkpointing=True), work)
    assert again - plain == pytest.approx(1000 * (trunk - 0.85 * left_out) / 3)
    generating = speed.hardware_flops(LARGE, replace(work, generating_share=0.25, pseudo_token_share=0.0))
    assert generating - plain == pytest.approx(1000 * (trunk - left_out) / 12)
    chunked = speed.hardware_flops(LARGE, replace(work, tokens=10_000, micro_batches=1))
    assert chunked - 10 * plain == pytest.approx(10_000 * head / 3)


def test_inserted_masks_are_positions_of_their_own() -> None:
    corruption = CorruptionConfig(mask_rate=0.15)
    assert speed.predicted_share({"MMLM": 2.0}, corruption) == pytest.approx(0.15)
    assert speed.predicted_share({"CAMLM": 1.0}, corruption) == pytest.approx(0.15 / 1.15)
    assert speed.predicted_share({"MMLM": 1.0, "CAMLM": 1.0}, corruption) == pytest.approx((0.15 + 0.15 / 1.15) / 2)


@pytest.mark.parametrize(("stage", "expected"), [(0, 16), (1, 4 + 12 / 64), (2, 4 + 12 / 64), (3, 2 + 14 / 64)])
def test_sharded_bytes_of_a_weight_are_those_of_the_ZeRO_paper(stage: int, expected: float) -> None:
    """Figure 1 of arXiv 1910.02054, K = 12, less the gradients that stages 2 and 3 shard."""
    parts = standing(10**9, Sharding(64, stage, 2, 0))
    assert parts["weights"] + parts["optimizer"] + 2e9 == pytest.approx(expected * 1e9, rel=0.01)


def test_a_layer_saves_what_Korthikanti_counts_without_dropout_masks_and_gelu() -> None:
    """34 s b h less 2 bytes of two dropout masks and 8 of GELU's output, in half precision; beside it fp32 statistics."""
    batch = MicroBatch(4, 512, 4 * 512)  # all predicted: the last layer like the others
    saved, _ = memory.activation_bytes(LARGE, batch, 2, sdpa=False, on_gpu=True)
    per_token_and_layer = saved / batch.tokens / LARGE.num_layers / LARGE.hidden_size
    assert per_token_and_layer == pytest.approx(24, rel=0.02)
    with_dropout, _ = memory.activation_bytes(replace(LARGE, dropout=0.1), batch, 2, sdpa=False, on_gpu=True)
    assert (with_dropout - saved) / batch.tokens / LARGE.hidden_size == pytest.approx(2 * LARGE.num_layers + 1)
    with_mask, _ = memory.activation_bytes(LARGE, batch, 2, sdpa=True, on_gpu=True)
    assert with_mask - saved == pytest.approx((2 * LARGE.num_layers + 1) * batch.tokens * 512), (
        "a number a key, in each layer"
    )
    checkpointed, one_layer = memory.activation_bytes(
        replace(LARGE, activation_checkpointing=True), batch, 2, sdpa=False, on_gpu=True
    )
    assert checkpointed == pytest.approx(batch.tokens * 25 * 2 * LARGE.hidden_size, rel=0.02)
    assert one_layer == pytest.approx(saved / LARGE.num_layers, rel=0.02)


def test_logits_are_those_of_the_loss_and_never_more_than_a_chunk() -> None:
    assert memory.MAX_LOGITS == loss.MAX_LOGITS
    assert {kind: loss.logits_at_a_time(torch.device(kind)) for kind in ("cpu", "cuda")} == memory.MAX_GENERATED
    small, summed, cast = memory.logit_bytes(LARGE, 100, 2)
    assert small == pytest.approx(2 * 100 * LARGE.vocab, rel=0.05)
    assert summed == cast == 0
    most, summed, cast = memory.logit_bytes(LARGE, 10_000, 2)
    assert most == pytest.approx(2 * memory.MAX_LOGITS, rel=0.2)
    assert summed == cast == 4 * LARGE.vocab * LARGE.hidden_size
    assert memory.logit_bytes(LARGE, 10_000, 4)[1:] == (summed, 0), "in fp32 it needs no copy"


def test_memory_never_falls_with_rows_and_each_saving_saves() -> None:
    def of(rows: int, stage: int = 1, **shape: object) -> float:
        batch = MicroBatch(rows, 512, 0.15 * rows * 512)
        return total(peak(replace(LARGE, **shape), Sharding(64, stage, 2), batch)[1])  # type: ignore[arg-type]

    sizes = [of(rows) for rows in (1, 2, 4, 8, 16, 32)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert of(16, activation_checkpointing=True) < 0.65 * of(16)
    assert of(16, stage=1) < of(16, stage=0)
    assert of(16, stage=2) < of(16, stage=1)


def test_generation_counts_for_BTMLM_alone() -> None:
    batch = MicroBatch(4, 512, 300)
    names = [name for name, _ in moments(LARGE, Sharding(64, 1, 2), batch)]
    assert names == [name for name in MOMENTS if name != "generation"]
    generating = replace(batch, generating_rows=4, placeholders=186)
    found = dict(moments(LARGE, Sharding(64, 1, 2), generating))
    assert list(found) == list(MOMENTS)
    assert found["generation"]["logits"] == 4 * 186 * LARGE.vocab, "fp32"


def test_what_a_stage_sends() -> None:
    P, W, w = 1000, 64, 2
    once = P * w * (W - 1) / W
    sent = [speed.sent_bytes(P, W, stage, w, 4) / once for stage in range(4)]
    assert sent == pytest.approx([2, 3, 9, 12])
    assert speed.sent_bytes(P, 1, 1, w, 4) == 0
    in_fp32 = [speed.sent_bytes(P, W, stage, w, 4, reduced_width=4) / once for stage in range(4)]
    assert in_fp32 == pytest.approx([4, 5, 17, 16]), "gradients twice as wide, weights as before"
    network = speed.communication_seconds(1e9, devices.DEVICES["H100"], 16, 2)
    assert network > speed.communication_seconds(1e9, replace(devices.DEVICES["H100"], network=1e12), 16, 2)


def test_large_fits_64_V100_with_the_papers_batch() -> None:
    job = job_of("large", "v100x64", "V100-32GB")
    chosen = best(plans(job), job.precision)
    assert chosen is not None
    assert chosen.precision == "fp16"
    assert chosen.zero_stage > 0, "DeepSpeed's stage 0 skips the loss scale"
    assert total(chosen.memory) < 31.7 * 2**30 * 0.95
    assert chosen.micro_batch * chosen.accumulation * 64 == 2048
    assert 0.68 < chosen.step_seconds[0] < 1.2
    assert chosen.days == pytest.approx((150_000 * chosen.step_seconds[0] + 50_000 * chosen.step_seconds[1]) / 86400)
    assert chosen.step_seconds[1] > chosen.step_seconds[0], "BTMLM's generation takes time"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("V100-32GB", (321, 115, 77, 56, 60, 22)),
        ("A100-80GB", (120, 16, 35, 21, 27, 10)),
        ("H100", (44, 9, 21, 8, 16, 6)),
    ],
)
def test_a_micro_batch_of_32_rows_takes_what_an_analysis_of_its_kernels_says(device: str, expected: tuple[int, ...]) -> None:
    """Milliseconds of products, attention, elementwise work, head, cross entropy, the output matrix's gradient (large)."""
    work = speed.Work(32 * 512, 512, 0.15, 0.0, 0.1, 1)
    of = devices.DEVICES[device]
    found = step.micro_batch_seconds(LARGE, work, of, of.half, 2)
    assert [1000 * seconds for seconds in found.values()] == pytest.approx(expected, rel=0.08)


def test_few_rows_at_a_time_take_longer() -> None:
    """By an analysis of kernels an H100 takes 6.7 s a step at 32 rows, 11-13 at 4, 64 V100 1.0-1.2 with nothing hidden."""
    alone = replace(job_of("large", "h200x8", "H100"), hosts={"localhost": 1})
    seconds = {rows: plan_for(alone, "bf16", 1, False, rows).step_seconds[0] for rows in (64, 32, 16, 8, 4)}
    assert seconds[32] == pytest.approx(6.7, rel=0.03)
    assert 11 < seconds[4] < 13
    assert list(seconds.values()) == sorted(seconds.values())
    cluster = job_of("large", "v100x64", "V100-32GB")
    beside = plan_for(cluster, "fp16", 1, False, 32)
    hidden = step.hidden_seconds(LARGE, parameter_count(LARGE), _spread(cluster, "fp16", 1, 1), beside.shares[0])
    assert 0.95 < beside.step_seconds[0] + hidden < 1.2
    assert hidden > 0.1
    assert step.hidden_seconds(LARGE, parameter_count(LARGE), _spread(cluster, "fp16", 1, 2), 1.0) == 0


def test_the_recipe_large_is_what_its_plan_advises_on_64_V100() -> None:
    job = job_of("large", "v100x64", "V100-32GB")
    chosen, config = best(plans(job), job.precision), job.config
    assert chosen is not None
    assert (chosen.micro_batch, chosen.accumulation, chosen.checkpointing) == (32, 1, config.model.activation_checkpointing)
    assert (config.batch.micro_batch_rows, config.engine.zero_stage) == (32, chosen.zero_stage)
    comment = (ROOT / "launcher/recipes/large.yaml").read_text(encoding="utf-8")
    four = plan_for(job, "fp16", 1, True, 4)
    for plan in (chosen, four):
        assert f"{total(plan.memory) / devices.GIB:.1f}" in comment
        assert f"{plan.step_seconds[0]:.2f} s" in comment


def test_attention_counts_what_documents_read_where_there_is_data(corpus_folder: CorpusFolder) -> None:
    job = job_of("small", "localhost", "cpu")
    keys = counted_keys(job.config, corpus_folder.folder)
    assert set(keys) == {"MMLM", "TLM", "CAMLM", "BTMLM"}
    assert 5 < keys["CAMLM"] < keys["TLM"] < keys["MMLM"] < 256, "CAMLM's sides read themselves; text has seven lines"
    phase, counting = job.config.stages[0], replace(job, keys=keys)
    assert keys_read(job, phase) == 256
    assert keys_read(counting, phase) == pytest.approx(sum(keys[name] for name in phase.rows) / 3)
    tokens, model = 512 * 256, job.config.model
    fewer = tokens * (256 - keys_read(counting, phase)) * 12 * model.num_layers * model.hidden_size
    assert needed_flops(job, phase) - needed_flops(counting, phase) == pytest.approx(fewer)


def test_sums_in_fp32_and_a_second_bucket_take_memory() -> None:
    batch = MicroBatch(4, 512, 300)
    P = parameter_count(LARGE)
    for stage, share in ((1, 1.0), (2, 1 / 8), (3, 1 / 8)):
        half, full = (dict(moments(LARGE, Sharding(8, stage, 2, sum_width=w), batch))["head"] for w in (2, 4))
        assert full["gradients"] - half["gradients"] == pytest.approx(2 * P * share)
    one, two = (standing(P, Sharding(8, 1, 2, 1000, overlaps=o)) for o in (False, True))
    assert two["buckets"] == 2 * one["buckets"] == 4000
    assert standing(P, Sharding(8, 1, 2, 1000, reduces_wider=True))["buckets"] == 6000


@pytest.mark.parametrize("device", devices.DEVICES)
def test_every_plan_is_the_largest_that_fits(device: str) -> None:
    job = job_of("large", "h200x8", device)
    found = plans(job)
    assert {(p.zero_stage, p.checkpointing) for p in found} == {(z, c) for z in range(4) for c in (True, False)}
    assert {p.precision for p in found} == set(job.device.peaks)
    mine = 2048 // 8
    for plan in found:
        assert mine % plan.micro_batch == 0
        assert plan.fits == (total(plan.memory) <= job.device.usable)
        larger = [n for n in range(plan.micro_batch + 1, mine + 1) if mine % n == 0]
        for rows in larger:
            assert not plan_for(job, plan.precision, plan.zero_stage, plan.checkpointing, rows).fits
    assert len({p.micro_batch for p in found}) > 1 or device == "H200"


def test_the_report_says_what_fits_what_does_not_and_why() -> None:
    job = job_of("large", "v100x64", "V100-32GB")
    text = report(job, plans(job))
    lines = text.splitlines()
    assert sum(line.lstrip().startswith(">") for line in lines) == 1
    assert lines[-1].startswith("advice: engine.zero_stage=")
    assert "checkpointing" in lines[-1]
    assert "MFU" in lines[-1]
    assert "512 keys a token of 512: whole rows, a bound; --data counts reads" in text
    read = report(replace(job, keys=dict.fromkeys(OBJECTIVES, 80.0)), plans(job))
    assert "80 keys a token of 512: pairs that documents read, counted on --data" in read
    assert "2048 rows x 512" in text
    small = replace(job, device=replace(job.device, memory=4 * 2**30))
    assert "advice: nothing fits" in report(small, plans(small))


def test_what_cannot_be_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"2047 does not divide over 8 ranks"):
        plans(job_of("large", "h200x8", "H200", "batch.rows_per_step=2047"))
    with pytest.raises(InputError, match=r"expected one of V100-32GB"):
        devices.device_named("P100")
    with pytest.raises(InputError, match=r"engine.precision: bf16; expected one of a V100-32GB"):
        plans(job_of("large", "v100x64", "V100-32GB", "engine.precision=bf16"))


def test_parameters_of_the_paper() -> None:
    assert parameter_count(LARGE) == pytest.approx(560e6, rel=0.01)


def test_the_launcher_prints_a_plan() -> None:
    command = [sys.executable, "launcher/plan.py", "--hostfile", "hostfiles/v100x64", "--recipe", "large"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "advice: engine.zero_stage=1 engine.precision=fp16" in result.stdout
    wrong = subprocess.run([*command, "--gpu", "P100"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_a_plan_for_data_counts_its_vocabulary(corpus_folder: CorpusFolder, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = str(ROOT / "hostfiles" / "h200x8")
    command.plan(recipe="small", hostfile=hosts)
    of_xlm_r = capsys.readouterr().out
    command.plan(recipe="small", hostfile=hosts, data=str(corpus_folder.folder))
    found = re.findall(r"([\d.,]+) M parameters", of_xlm_r + capsys.readouterr().out)
    assert float(found[1]) < float(found[0]) / 2, found


def test_a_network_that_nothing_is_sent_over_is_refused() -> None:
    with pytest.raises(InputError, match=r"--network 100: \S*h200x8 has one host, which sends nothing to others"):
        command.plan(recipe="small", hostfile=str(ROOT / "hostfiles" / "h200x8"), network=100.0)


def test_heads_too_small_for_flex_are_planned_without_it() -> None:
    """As choose_attention will decide on the card."""
    small = replace(LARGE, hidden_size=128, num_heads=16)
    assert speed.has_flex(LARGE, devices.DEVICES["H100"])
    assert not speed.has_flex(small, devices.DEVICES["H100"]), "heads of 8"
    assert not speed.has_flex(replace(LARGE, attention_dropout=0.1), devices.DEVICES["H100"])
