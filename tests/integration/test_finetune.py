"""Fine-tuning from files to scores: several seeds, restarted, on one rank and on two."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data_prep import embedded
from ernie_m.base.console import InputError
from ernie_m.downstream.experiment import Experiment, run
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.seed import newest_whole_checkpoint
from ernie_m.downstream.task import Task
from ernie_m.downstream.task_files import FileOptions
from ernie_m.downstream.training import TaskTrainer
from ernie_m.downstream.xnli import Xnli
from tests.downstream_fixtures import EXACT, MARKS, pairs, real_data, tiny_encoder, without_dropout  # noqa: F401
from tests.integration.conftest import ROOT, environment

OVERRIDES = ("learning_rate=2e-3", "layer_decay=0.9", "batch_size=16", "epochs=6", "max_length=40")
"""Updates enough that every seed learns, however the processor rounds: at a higher rate in half of them, some did not."""


def experiment(encoder: Path, data: Path, to: Path, *seeds: int, **changes: Any) -> Experiment:
    settings = {"task": Xnli(), "setting": "transfer", "files": FileOptions(data, {}), "overrides": OVERRIDES, **changes}
    return Experiment(encoder=encoder, to=to, seeds=seeds, **settings)


@pytest.fixture(scope="module")
def undisturbed(tiny_encoder: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("undisturbed")
    run(experiment(tiny_encoder, pairs, to, 1, 2))
    return to


def result_of(folder: Path, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / f"seed_{seed}/result.json").read_text(encoding="utf-8"))
    return {key: value for key, value in result.items() if key != "seconds"}


def predictions_of(folder: Path, seed: int, language: str) -> list[Any]:
    lines = (folder / f"seed_{seed}/predictions/{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_what_can_be_learnt_is_learnt_and_carries_over(undisturbed: Path, pairs: Path) -> None:
    content = json.loads((undisturbed / "results.json").read_text(encoding="utf-8"))
    assert content["collapsed"] == []
    assert content["average"]["accuracy"]["mean"] > 85
    assert content["paper"] is None, "36 pairs a language are not XNLI's test set"
    assert content["setting"] == "transfer"
    assert [seed["seed"] for seed in content["seeds"]] == [1, 2]
    labels = [line.split("\t")[2] for line in (pairs / "test-fr.tsv").read_text(encoding="utf-8").splitlines()]
    for seed in (1, 2):
        predicted = predictions_of(undisturbed, seed, "fr")
        right = sum(a == b for a, b in zip(predicted, labels, strict=True))
        assert result_of(undisturbed, seed)["test"]["fr"]["accuracy"] == pytest.approx(100 * right / 36)
        assert not list((undisturbed / f"seed_{seed}").glob("checkpoint-*"))
    assert (undisturbed / "scores.png").read_bytes().startswith(b"\x89PNG")
    weights = [load_file(undisturbed / f"seed_{seed}/model/model.safetensors") for seed in (1, 2)]
    assert not torch.equal(weights[0]["classifier.out_proj.weight"], weights[1]["classifier.out_proj.weight"])


def test_a_model_that_was_fine_tuned_is_scored_as_it_is(
    undisturbed: Path, tiny_encoder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_tests = tmp_path / "data"
    only_tests.mkdir()
    for path in pairs.glob("test-*.tsv"):
        shutil.copy(path, only_tests)
    given = experiment(undisturbed / "seed_2/model", only_tests, tmp_path / "scores", score_only=True)
    content = run(given)
    trained = result_of(undisturbed, 2)["test"]
    assert {language: of["accuracy"]["mean"] for language, of in content["languages"].items()} == pytest.approx(
        {language: of["accuracy"] for language, of in trained.items()}
    )
    written = (tmp_path / "scores/predictions/fr.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == predictions_of(undisturbed, 2, "fr")
    assert "scored as given, not trained here" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"it has no head; --score_only expected a model fine-tuned for xnli, with the classes"
    ):
        run(experiment(tiny_encoder, only_tests, tmp_path / "headless", score_only=True))
    with pytest.raises(InputError, match=r"its head has .*; --score_only expected a model fine-tuned for pawsx"):
        run(experiment(undisturbed / "seed_2/model", pairs, tmp_path / "other", score_only=True, task=PawsX(), overrides=()))
    files = FileOptions(only_tests, {"train": str(pairs / "train-en.tsv")})
    with pytest.raises(InputError, match=r"--score_only and --train_files: nothing is trained"):
        run(experiment(undisturbed / "seed_2/model", only_tests, tmp_path / "named", score_only=True, files=files))


def test_the_saved_model_gives_the_scored_predictions_by_name(undisturbed: Path, pairs: Path) -> None:
    folder = undisturbed / "seed_1/model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert sorted(model.config.label2id) == sorted(MARKS)
    predicted = []
    for line in (pairs / "test-fr.tsv").read_text(encoding="utf-8").splitlines():
        inputs = tokenizer(*line.split("\t")[:2], truncation=True, max_length=40, return_tensors="pt")
        predicted.append(model.config.id2label[model(**inputs).logits.argmax().item()])
    assert predicted == predictions_of(undisturbed, 1, "fr")


class Killed(BaseException):
    """The process ends here."""


def test_a_killed_seed_goes_on_to_the_same_scores_and_a_finished_one_is_left_alone(
    undisturbed: Path,
    tiny_encoder: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    shutil.rmtree(folder / "seed_2")
    before = (folder / "seed_1/result.json").stat().st_mtime_ns
    looks: list[int] = []
    evaluate = TaskTrainer.evaluate

    def killed_at_the_second(trainer: TaskTrainer, *arguments: Any, **keywords: Any) -> dict[str, float]:
        looks.append(trainer.state.global_step)
        if len(looks) == 2:
            raise Killed
        return evaluate(trainer, *arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(TaskTrainer, "evaluate", killed_at_the_second)
        with pytest.raises(Killed):
            run(experiment(tiny_encoder, pairs, folder, 1, 2))
    checkpoint = newest_whole_checkpoint(folder / "seed_2")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-12"
    assert looks == [12, 24], "the finished seed was not trained again"
    (folder / "seed_2/checkpoint-24").mkdir()  # as a kill amid saving leaves it
    (folder / "seed_2/checkpoint-24/trainer_state.json").write_text('{"global_step": 2')

    steps: list[int] = []
    step = TaskTrainer.training_step

    def counted(trainer: TaskTrainer, *arguments: Any, **keywords: Any) -> Any:
        steps.append(trainer.state.global_step)
        return step(trainer, *arguments, **keywords)

    monkeypatch.setattr(TaskTrainer, "training_step", counted)
    run(experiment(tiny_encoder, pairs, folder, 1, 2))
    assert steps == list(range(12, 72)), "from the whole checkpoint to the end"
    assert result_of(folder, 2) == result_of(undisturbed, 2)
    assert predictions_of(folder, 2, "fr") == predictions_of(undisturbed, 2, "fr")
    ours, theirs = (load_file(of / "seed_2/model/model.safetensors") for of in (folder, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (folder / "seed_1/result.json").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_model_whatever_ran_before(
    undisturbed: Path,
    tiny_encoder: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    torch.rand(7)
    run(experiment(tiny_encoder, pairs, tmp_path, 2))
    assert result_of(tmp_path, 2) == result_of(undisturbed, 2)
    ours, theirs = (load_file(of / "seed_2/model/model.safetensors") for of in (tmp_path, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_of_other_settings_is_refused_with_what_differs(
    undisturbed: Path,
    tiny_encoder: Path,
    pairs: Path,
) -> None:
    with pytest.raises(InputError, match=r"other settings \(hyperparameters\.epochs: 6 -> 4\)"):
        run(experiment(tiny_encoder, pairs, undisturbed, 1, overrides=(*OVERRIDES, "epochs=4")))
    with pytest.raises(InputError, match=r"hyperparameters: unknown key epoch; did you mean epochs\?"):
        run(experiment(tiny_encoder, pairs, undisturbed, 1, overrides=("epoch=4",)))
    with pytest.raises(InputError, match=r"evaluate_every: 99; expected at most 72"):
        run(experiment(tiny_encoder, pairs, undisturbed, 1, overrides=(*OVERRIDES, "evaluate_every=99")))
    with pytest.raises(InputError, match="--setting all: expected one of transfer, translate-train-all"):
        run(experiment(tiny_encoder, pairs, undisturbed, 1, setting="all"))


def test_a_seed_that_learns_nothing_is_named_beside_the_mean(
    tiny_encoder: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    answered_in_all_ways = [f"{embedded.sentence(2, i, 'en')}\t1 1 1\t{label}\n" for i in range(16) for label in MARKS]
    (data / "dev-en.tsv").write_text("".join(answered_in_all_ways), encoding="utf-8")  # any model has a third of it right
    overrides = (*OVERRIDES, "epochs=1")
    content = run(experiment(tiny_encoder, data, tmp_path / "to", 5, overrides=overrides, keep_models=False))
    assert content["seeds"][0]["validation"] == pytest.approx(100 / 3)
    assert content["collapsed"] == [5]
    assert content["without_collapsed"] is None
    shown = capsys.readouterr().out
    assert "seed 5*" in shown
    assert "* collapsed: 1 of 1 seeds (5)" in shown
    assert not (tmp_path / "to/seed_5/model").exists()


@pytest.mark.parametrize(("task", "column"), [(Xnli(), {}), (PawsX(), {"0": "different", "1": "paraphrase"})])
def test_real_files_are_scored_as_an_independent_count_does(
    task: Task[Any],
    column: dict[str, str],
    real_data: Path,
    tiny_encoder: Path,
    tmp_path: Path,
) -> None:
    languages, truth = ("en", "fr", "zh"), {}
    for language in languages:
        lines = (real_data / task.name / f"dev-{language}.tsv").read_text(encoding="utf-8").split("\n")[:150]
        truth[language] = {tuple(line.split("\t")[:2]): line.split("\t")[2] for line in lines}
        (tmp_path / f"dev-{language}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = FileOptions(tmp_path, {}, from_dev=True)
    overrides = ("epochs=1", "max_length=48", "batch_size=8")
    content = run(experiment(tiny_encoder, tmp_path, tmp_path / "to", 1, 2, task=task, files=files, overrides=overrides))
    assert set(content["languages"]) == set(languages)
    assert "cut out of dev files" in content["protocol"]
    assert content["paper"] is None
    examples = task.read(tmp_path / "dev-zh.tsv", "zh")["zh"]
    tested = [pair for i, pair in enumerate(examples) if task_part(task, pair, i) == "test"]
    for seed in (1, 2):
        predicted = predictions_of(tmp_path / "to", seed, "zh")
        given = [truth["zh"][pair.first, pair.second] for pair in tested]
        right = sum(a == column.get(b, b) for a, b in zip(predicted, given, strict=True))
        assert content["seeds"][seed - 1]["test"]["zh"]["accuracy"] == pytest.approx(100 * right / len(tested))


def task_part(task: Task[Any], pair: Any, index: int) -> str:
    from ernie_m.downstream.task_files import dev_part

    return dev_part(task.split_key(pair, index))


def assert_same_weights(one: Path, two: Path) -> None:
    ours, theirs = (load_file(folder / "seed_4/model/model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=2e-5), name


def test_micro_batches_train_the_same_model_as_whole_ones(
    tiny_encoder: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    encoder = without_dropout(tiny_encoder, tmp_path / "encoder")
    for name, micro in (("whole", 16), ("parts", 4)):
        run(experiment(encoder, pairs, tmp_path / name, 4, overrides=(*EXACT, f"micro_batch={micro}")))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["xnli", "--model", ".", "--data", ".", "--to", "x", "--zero_stage", "3"],
            "--zero_stage 3: expected a whole number from 1 to 2",
        ),
        (["xnli", "--model", ".", "--data", ".", "--to", "x", "--seeds", "3,3"], "--seeds 3,3: expected a number of seeds"),
        (["xnly", "--model", "."], "unknown command xnly, did you mean `xnli`?"),
    ],
)
def test_a_wrong_command_line_is_one_line(options: list[str], expected: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launcher/finetune.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {expected}")
    assert not list(tmp_path.iterdir())


def test_the_best_checkpoint_is_scored_and_kept_not_the_last(
    tiny_encoder: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: dict[int, torch.Tensor] = {}

    def falling(trainer: TaskTrainer, *_: Any, **__: Any) -> dict[str, float]:
        step = trainer.state.global_step
        heads[step] = trainer.model.classifier.out_proj.weight.detach().clone()
        return {"eval_accuracy": 100.0 - step}

    monkeypatch.setattr(TaskTrainer, "evaluate", falling)
    run(experiment(tiny_encoder, pairs, tmp_path, 1, overrides=(*OVERRIDES, "evaluate_every=5", "epochs=1")))
    assert list(heads) == [5, 10, 12], "and at the end"
    assert not torch.equal(heads[5], heads[10])
    result = result_of(tmp_path, 1)
    assert (result["best_step"], result["validation"], result["num_updates"]) == (5, 95.0, 12)
    assert torch.equal(load_file(tmp_path / "seed_1/model/model.safetensors")["classifier.out_proj.weight"], heads[5])
