"""The main job with real ranks: trains through both stages, survives kill -9 bit for bit, exports, is evaluated."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ernie_m.base.config import build, merge_overrides
from ernie_m.base.console import InputError
from ernie_m.runs.metrics import read_metrics
from ernie_m.runs.run_folder import RunFolder
from ernie_m.runs.skip_steps import SkipSteps
from ernie_m.training.divergence import GuardConfig
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.trainer import Trainer
from tests.integration.conftest import ROOT, TINY_RECIPE
from tests.integration.scripts import run_script

RECIPE = TINY_RECIPE
NUM_STEPS = 12


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Every step's losses, gains included."""
    steps: dict[int, dict[str, float]] = {}
    for line in read_metrics(run):
        kept = {k: v for k, v in line.items() if k.startswith(("loss/", "held_out_loss", "cross_lingual"))}
        steps.setdefault(line["step"], {}).update(kept)
    return steps


def single(recipe: Path, data: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Train as a plain process of one rank."""
    return run_script("launcher/pretrain.py", "--recipe", recipe, "--data", data, "--run", run, *more)


def kill_all(argument: str) -> None:
    """kill -9 every process that has `argument` on its command line: the launcher and all ranks."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = single(recipe, data, run)
    assert finished.returncode == 0, finished.stderr
    return run


def unfinished_copy(run: Path, to: Path) -> Path:
    """A copy of a finished run as it was just before its completion marker."""
    shutil.copytree(run, to / "run")
    (to / "run" / "COMPLETE").unlink()
    return to / "run"


def test_a_run_goes_through_both_stages_and_leaves_what_it_promises(undisturbed: Path) -> None:
    steps = losses(undisturbed)
    assert sorted(steps) == list(range(1, NUM_STEPS + 1))
    names = {step: {key.split("/")[1] for key in found if key.startswith("loss/")} for step, found in steps.items()}
    assert names[6] == {"MMLM", "TLM", "CAMLM"}
    assert names[7] == {"MMLM", "CAMLM", "BTMLM"}
    assert any(key.count("/") == 2 for key in steps[1]), "losses per stream as well"
    assert "cross_lingual_gain" in steps[6]
    assert steps[12]["loss/MMLM"] < steps[1]["loss/MMLM"]
    assert json.loads((undisturbed / "COMPLETE").read_text())["steps"] == NUM_STEPS
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (undisturbed / "checkpoints" / "latest").read_text().strip() == f"step_{NUM_STEPS:08d}"
    assert yaml.safe_load((undisturbed / "config.yaml").read_text())["seed"] == 5


@pytest.mark.faults
def test_two_ranks_killed_in_mid_run_resume_to_the_bit_identical_loss_log(
    recipe: Path, linked_data: Path, start_ranks: Any, tmp_path: Path
) -> None:
    first, second = "{MMLM: 1, AlignLM: 1, XLCO: 1}", "{CAMLM: 1, BTMLM: 1, AlignLM: 1, PLM: 1}"
    both_heads = f"stages=[{{steps: 6, rows: {first}}}, {{steps: 6, rows: {second}}}]"
    arguments = ("launcher/pretrain.py", "--recipe", recipe, both_heads, "--data", linked_data, "--run")
    whole = start_ranks(2, *arguments, tmp_path / "whole")
    text, _ = whole.communicate(timeout=240)
    assert (tmp_path / "whole" / "COMPLETE").is_file(), text

    killed = start_ranks(2, *arguments, tmp_path / "killed", "output.log_every=1")
    deadline = time.monotonic() + 120
    while not any(line["step"] >= 6 for line in read_metrics(tmp_path / "killed")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    kill_all(str(tmp_path / "killed"))
    killed.communicate(timeout=30)
    assert not (tmp_path / "killed" / "COMPLETE").exists()

    resumed = start_ranks(2, *arguments, tmp_path / "killed")
    text, _ = resumed.communicate(timeout=240)
    assert (tmp_path / "killed" / "COMPLETE").is_file(), text
    assert "starting at step 4" in text or "starting at step 8" in text
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_losses_do_not_depend_on_the_number_of_ranks(
    linked_data: Path, recipe: Path, start_ranks: Any, tmp_path: Path
) -> None:
    data, mix = linked_data, "stages=[{steps: 3, rows: {AlignLM: 1, CAMLM: 1, BTMLM: 1, XLCO: 1, PLM: 1}}]"
    weights = "stream_weights.AlignLM_bilingual={en-fr: 0.5}"
    still = ["model.dropout=0.0", "model.attention_dropout=0.0", mix, weights, "objective_weights={TLM: 2, XLCO: 1}"]
    assert single(recipe, data, tmp_path / "one", *still).returncode == 0
    two = start_ranks(2, "launcher/pretrain.py", "--recipe", recipe, "--data", data, "--run", tmp_path / "two", *still)
    text, _ = two.communicate(timeout=240)
    assert (tmp_path / "two" / "COMPLETE").is_file(), text
    assert text.count("objective_weights.TLM: no stage trains it; without effect\n") == 1, text
    one, other = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    for step in one:
        assert one[step].keys() == other[step].keys()
        assert other[step] == pytest.approx(one[step], abs=1e-5)


def test_a_stream_that_is_not_there_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    config = build(TrainingConfig, merge_overrides(RECIPE, ["stream_weights={TLM: {en-xx: 0.5}}"]), "recipe")
    with pytest.raises(InputError, match=r"stream_weights.TLM.en-xx: no such stream"):
        Trainer(config, data, tmp_path / "run", ROOT / "ds_configs")
    assert not (tmp_path / "run").exists()


def test_steps_are_left_out_while_some_remain_to_be_trained(data: Path, tmp_path: Path) -> None:
    config, run = build(TrainingConfig, RECIPE, "recipe"), RunFolder(tmp_path / "run")

    def skipping(text: str) -> Trainer:
        return Trainer(config, data, run.path, ROOT / "ds_configs", skip_steps=text)

    configuration = skipping("2:4").configuration
    with pytest.raises(InputError, match=f"--skip_steps 0:{NUM_STEPS}: with these no step of {NUM_STEPS} is left to train"):
        skipping(f"0:{NUM_STEPS}")
    assert not run.path.exists()
    run.checkpoints.mkdir(parents=True)
    run.start(configuration, from_scratch=False)
    SkipSteps.parse("0:9").write(run.path)
    with pytest.raises(InputError, match=f"--skip_steps 4:{NUM_STEPS}: with these no step"):
        skipping(f"4:{NUM_STEPS}")
    run.complete({"steps": NUM_STEPS})
    skipping("2:4")
    with pytest.raises(InputError, match=r"--skip_steps 2:10: .* is finished, and step 9 was trained; remove its COMPLETE"):
        skipping("2:10")


def fp16_on_cpu(folder: Path, is_supported: bool = True) -> Path:
    """launcher/pretrain.py where DeepSpeed, which takes fp16 on some processors and refuses it on others, is told which."""
    script = folder / "pretrain.py"
    script.write_text(
        "from deepspeed.accelerator import get_accelerator\n"
        f"type(get_accelerator()).is_fp16_supported = lambda self: {is_supported}\n"
        "from ernie_m.commands.pretrain import main; main()\n"
    )
    return script


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "bf16"), (1, "bf16"), (3, "bf16"), (1, "fp16"), (3, "fp16")])
def test_half_precision_trains(zero_stage: int, precision: str, recipe: Path, data: Path, tmp_path: Path) -> None:
    script = fp16_on_cpu(tmp_path)
    more = [
        f"engine.zero_stage={zero_stage}",
        f"engine.precision={precision}",
        "stages=[{steps: 8, rows: {MMLM: 1, BTMLM: 1}}]",
    ]
    done = run_script(script, "--recipe", recipe, "--data", data, "--run", tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    steps = losses(tmp_path / "run")
    assert steps[8]["loss/MMLM"] < steps[1]["loss/MMLM"]
    if precision == "fp16":
        assert any(line.get("loss_scale", 0) > 1 for line in read_metrics(tmp_path / "run"))


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_fp16_that_overflows_at_every_scale_stops_all_ranks_with_our_advice_at_default_settings(
    zero_stage: int, recipe: Path, data: Path, start_ranks: Any, tmp_path: Path
) -> None:
    """DeepSpeed alone would end in a traceback at its smallest scale, long before max_skipped_updates."""
    most = GuardConfig().max_skipped_updates
    small = "{num_layers: 1, hidden_size: 16, num_heads: 2, ffn_size: 16, initializer_range: 1000.0}"
    process = start_ranks(
        2,
        fp16_on_cpu(tmp_path),
        *("--recipe", recipe, "--data", data, "--run", tmp_path / "run"),
        *(f"model={small}", "data.sequence_length=64", "batch={rows_per_step: 2, micro_batch_rows: 1}"),
        *(f"stages=[{{steps: {most + 5}, rows: {{MMLM: 1}}}}]", f"engine={{zero_stage: {zero_stage}, precision: fp16}}"),
    )
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 2, text
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert f"step {most - 1}: the fp16 gradients overflowed {most} times in a row (loss scale now 1)" in line
    assert "engine.precision=bf16" in line
    assert "Traceback" not in text
    assert json.loads((tmp_path / "run" / "last_stop.json").read_text())["kind"] == "refused"


def test_what_deepspeed_refuses_is_one_line_with_the_file_that_asks_for_it(recipe: Path, data: Path, tmp_path: Path) -> None:
    of_run = ("--recipe", recipe, "--data", data, "--run", tmp_path / "run")
    refused = run_script(fp16_on_cpu(tmp_path, is_supported=False), *of_run, "engine={zero_stage: 1, precision: fp16}")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"zero1_fp16\.json: deepspeed [\d.]+ refuses this: .*fp16", line)


def test_a_finished_run_is_left_alone_and_another_configuration_refused(undisturbed: Path, recipe: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    again = single(recipe, data, undisturbed)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    refused = single(recipe, data, undisturbed, "optimizer.peak_learning_rate=5e-4", "seed=6")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert "optimizer.peak_learning_rate: 0.001 -> 0.0005" in line
    assert "seed: 5 -> 6" in line
    assert "--from_scratch" in line
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_a_damaged_checkpoint_is_passed_over_and_the_run_still_ends_the_same(
    undisturbed: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    run = unfinished_copy(undisturbed, tmp_path)
    newest = run / "checkpoints" / f"step_{NUM_STEPS:08d}"
    victim = max(newest.glob("rank_*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    resumed = single(recipe, data, run)
    assert resumed.returncode == 0, resumed.stderr
    assert victim.name in resumed.stderr
    assert "starting at step 8" in resumed.stdout
    assert losses(run) == losses(undisturbed)


def test_another_precision_is_taken_up_when_it_is_asked_for_and_only_then(
    undisturbed: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    run = unfinished_copy(undisturbed, tmp_path)
    shutil.rmtree(run / "checkpoints" / f"step_{NUM_STEPS:08d}")
    resumed = single(recipe, data, run, "engine.precision=bf16")
    assert resumed.returncode == 0, resumed.stderr
    assert "starting at step 8" in resumed.stdout
    assert losses(run)[NUM_STEPS]["loss/MMLM"] == pytest.approx(losses(undisturbed)[NUM_STEPS]["loss/MMLM"], abs=0.05)
    (run / "COMPLETE").unlink()
    stopped = single(recipe, data, run, "engine.precision=auto")
    assert stopped.returncode == 2
    assert "saved in bf16, this job has precision: fp32 (cpu device); set engine.precision=bf16" in stopped.stderr


def test_checkpoints_that_are_all_damaged_stop_the_run_instead_of_starting_over(
    undisturbed: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    run = unfinished_copy(undisturbed, tmp_path)
    for folder in (run / "checkpoints").glob("step_*"):
        (folder / "manifest.json").unlink()
    stopped = single(recipe, data, run)
    assert stopped.returncode == 2
    assert "none of them whole" in stopped.stderr
    again = single(recipe, data, run, "--from_scratch")
    assert again.returncode == 0, again.stderr
    assert losses(run) == losses(undisturbed)


def test_the_export_loads_in_transformers_and_is_evaluated(undisturbed: Path, embedded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hugging_face"
    done = run_script("launcher/export.py", "--run", undisturbed, "--to", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.safetensors").is_file()
    assert run_script("launcher/export.py", "--run", undisturbed, "--to", folder).returncode == 2, "never overwrites"
    source, target = embedded / "heldout" / "fr-en.fr", embedded / "heldout" / "fr-en.en"
    files = ["--source", source, "--target", target]
    measured = run_script(
        "launcher/evaluate.py", "retrieval", "--model", folder, *files, "--output", tmp_path / "retrieval.json"
    )
    assert measured.returncode == 0, measured.stderr
    result = json.loads((tmp_path / "retrieval.json").read_text())
    assert result["pairs"] == 20
    assert set(result["trained"]) == set(result["untrained"]) == {"0", "1", "2"}
    gain = run_script("launcher/evaluate.py", "gain", "--run", undisturbed, "--output", tmp_path / "gain.json")
    assert gain.returncode == 0, gain.stderr
    assert json.loads((tmp_path / "gain.json").read_text())["num_predicted"] > 50
    short = tmp_path / "short"
    short.write_text("one line\n")
    unequal = run_script("launcher/evaluate.py", "retrieval", "--model", folder, "--source", source, "--target", short)
    assert unequal.returncode == 2
    assert "20 lines" in unequal.stderr


BAD_INPUT = {
    "no data folder": (["--data", "nowhere"], "nowhere: no such folder"),
    "unknown key": (["model.num_layer=3"], "did you mean model.num_layers?"),
    "unknown recipe": (["--recipe", "tinny"], "known recipes: align, "),
    "unknown option": (["--from_scrach"], "did you mean `from_scratch`?"),
    "not key=value": (["optimizer"], "expected key.path=value"),
    "batch does not divide": (["batch.rows_per_step=7"], "the nearest that is: 8"),
    "too few rows": (["batch.rows_per_step=2", "batch.micro_batch_rows=1"], "needs a row of each"),
    "another vocabulary": (["model.vocab_size=250002"], "model.vocab_size"),
    "too long rows": (["data.sequence_length=1024"], "allows 512"),
    "another number of ranks": (["--ranks", "64"], "--ranks 64: these are 1"),
    "wrong type": (["optimizer.warmup_steps=many"], "expected a whole number"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line(name: str, recipe: Path, data: Path, tmp_path: Path) -> None:
    more, expected = BAD_INPUT[name]
    run = tmp_path / "run"
    given = {"--recipe": recipe, "--data": data, "--run": run}
    if more[0] in given:
        more = [word for option in given.items() for word in (more if option[0] == more[0] else option)]
        stopped = run_script("launcher/pretrain.py", *more)
    else:
        stopped = single(recipe, data, run, *more)
    assert stopped.returncode == 2, stopped.stdout
    errors = [line for line in stopped.stderr.splitlines() if "Warning" not in line and line.strip()]
    assert len(errors) == 1, stopped.stderr
    assert errors[0].startswith("error: ")
    assert expected in errors[0]
    assert not run.exists()


def test_a_truncated_shard_and_a_foreign_tokenizer_are_refused_before_training(
    recipe: Path, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shard = next(copy.rglob("train-00000.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    stopped = single(recipe, copy, tmp_path / "run")
    assert stopped.returncode == 2
    assert shard.name in stopped.stderr
    shutil.rmtree(copy)
    shutil.copytree(data, copy)
    tokenizer = copy / "sentencepiece.bpe.model"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\0")
    stopped = single(recipe, copy, tmp_path / "run")
    assert stopped.returncode == 2
    assert "not the tokenizer of these shards" in stopped.stderr
