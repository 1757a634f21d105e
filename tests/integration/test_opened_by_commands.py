"""Every command opens an encoder alike: what cannot be measured is refused in one line, nothing foreign is run or written
over, and a training that diverges stops."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from ernie_m.base.console import InputError
from ernie_m.commands.evaluate import Commands
from ernie_m.downstream import tatoeba
from ernie_m.downstream.experiment import Experiment, run
from ernie_m.downstream.pawsx import PawsX
from ernie_m.downstream.task_files import FileOptions
from ernie_m.downstream.xnli import Xnli
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.layout import ERNIE_M, XLM_ROBERTA
from tests.downstream_fixtures import pairs, tiny_encoder
from tests.integration.conftest import ROOT, environment
from tests.integration.scripts import run_script

__all__ = ["pairs", "tiny_encoder"]
QUICK = ("learning_rate=1e-3", "batch_size=16", "epochs=1", "max_length=40")


@pytest.fixture(scope="module")
def evaluate() -> Any:
    """The commands of `ernie-m evaluate`."""
    return Commands()


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, str]:
    """Two aligned files; some lines are longer than the tiny encoder."""
    for name in ("fr", "en"):
        lines = [f"{number} Monday {name} " * (1 + 60 * (number % 3)) for number in range(6)]
        (tmp_path / f"x.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"source": str(tmp_path / "x.fr"), "target": str(tmp_path / "x.en")}


def reshaped(folder: Path, to: Path, change: dict[str, Any], weights: Callable[[Any], Any] = lambda w: w) -> Path:
    """A copy with another configuration and other weights."""
    made = Path(shutil.copytree(folder, to))
    content = json.loads((made / "config.json").read_text(encoding="utf-8"))
    (made / "config.json").write_text(json.dumps(content | change), encoding="utf-8")
    save_file(weights(load_file(made / "model.safetensors")), made / "model.safetensors", {"format": "pt"})
    return made


# -- retrieval ----------------------------------------------------------------------------------------------------------


def test_texts_longer_than_the_table_of_positions_are_cut_and_counted(
    evaluate: Any, tiny_encoder: Path, sides: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def short(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = "roberta.embeddings.position_embeddings.weight"
        return weights | {name: weights[name][:34].clone()}

    folder = reshaped(tiny_encoder, tmp_path / "hf", {"max_position_embeddings": 34}, short)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')  # says no limit
    assert open_encoder(folder).tokenizer.model_max_length == 32
    evaluate.retrieval(model=str(folder), **sides, output=str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text())["pairs"] == 6
    assert "note: 8 of 12 sentences are longer than 32 tokens; their ends are not read" in capsys.readouterr().out


def test_each_sentence_is_tokenized_once_for_both_encoders_and_the_count_of_cut_ones(
    evaluate: Any, tiny_encoder: Path, sides: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, texts = type(open_encoder(tiny_encoder).tokenizer), []
    real = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, some, **how: (texts.extend(some), real(self, some, **how))[1])
    evaluate.retrieval(model=str(tiny_encoder), **sides)
    assert texts == [line for path in sides.values() for line in Path(path).read_text().splitlines()]


def test_half_precision_and_the_papers_class_are_measured_as_what_they_hold(
    evaluate: Any, tiny_encoder: Path, sides: dict[str, str], tmp_path: Path
) -> None:
    def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kind = "roberta.embeddings.token_type_embeddings.weight"
        return {name: value.half().float() for name, value in weights.items()} | {kind: torch.zeros_like(weights[kind])}

    def under_its_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {to: weights[name] for name, to in XLM_ROBERTA.renamed(ERNIE_M, 2, weights).items()}

    plain = reshaped(tiny_encoder, tmp_path / "plain", {}, rounded)
    half = reshaped(plain, tmp_path / "half", {"dtype": "float16"}, lambda w: {k: v.half() for k, v in w.items()})
    papers = reshaped(plain, tmp_path / "papers", {"model_type": "ernie_m"}, under_its_names)
    found = []
    for number, folder in enumerate((plain, half, papers)):
        output = tmp_path / f"{number}.json"
        evaluate.retrieval(model=str(folder), **sides, output=str(output))
        content = json.loads(output.read_text())
        found.append({key: content[key] for key in ("trained", "untrained")})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (t.T5Config(), "model type t5, an encoder with a decoder behind it; expected an encoder such as xlm-roberta"),
        (t.GPT2Config(), "model type gpt2, a decoder"),
    ],
)
def test_what_is_no_encoder_is_refused(
    config: Any, expected: str, evaluate: Any, tiny_encoder: Path, sides: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "hf"))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=expected):
        evaluate.retrieval(model=str(folder), **sides)


def test_hub_ids_are_taken_from_the_cache(
    evaluate: Any,
    tiny_encoder: Path,
    sides: dict[str, str],
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = tmp_path / "cache" / "models--some--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_encoder, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, to in (("some/encoder", "hub.json"), (str(tiny_encoder), "folder.json")):
        evaluate.retrieval(model=name, **sides, output=str(tmp_path / to))
    hub, folder = (json.loads((tmp_path / name).read_text()) for name in ("hub.json", "folder.json"))
    assert hub["trained"] == folder["trained"]
    files = FileOptions(pairs, {})
    content = run(Experiment(Xnli(), "transfer", "some/encoder", files, tmp_path / "to", (1,), QUICK, keep_models=False))
    assert content["encoder"] == "some/encoder"
    with pytest.raises(InputError, match="some/other: no such folder, not in the hub's local cache"):
        evaluate.retrieval(model="some/other", **sides)


def test_figures_of_something_else_are_not_written_over(
    evaluate: Any, tiny_encoder: Path, sides: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    for theirs in ("my notes", '{"accuracy": 1}', "[1]"):
        output.write_text(theirs)
        with pytest.raises(InputError, match=r"--output .*out\.json: there already, and not of measure retrieval"):
            evaluate.retrieval(model=str(tiny_encoder), **sides, output=str(output))
        assert output.read_text() == theirs
    output.unlink()
    evaluate.retrieval(model=str(tiny_encoder), **sides, untrained=False, output=str(output))
    evaluate.retrieval(model=str(tiny_encoder), **sides, untrained=False, output=str(output))
    evaluate.retrieval(model=str(tiny_encoder), **sides, output=str(output))
    both = output.read_text()
    with pytest.raises(InputError, match="has figures of untrained too, which would be lost"):
        evaluate.retrieval(model=str(tiny_encoder), **sides, untrained=False, output=str(output))
    assert output.read_text() == both
    with pytest.raises(InputError, match=r"there already, .* layer 1"):
        evaluate.retrieval(model=str(tiny_encoder), **sides, layer=1, output=str(output))
    with pytest.raises(InputError, match="there already"):
        evaluate.retrieval(model=str(tiny_encoder), source=sides["target"], target=sides["source"], output=str(output))
    with pytest.raises(InputError, match="there already, and not of measure gain"):
        evaluate.gain(run=str(tmp_path), output=str(output))


# -- code of its own ----------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
from transformers import XLMRobertaConfig, XLMRobertaModel
Path({marker!r}).touch()
class OwnConfig(XLMRobertaConfig):
    model_type = "own"
class OwnModel(XLMRobertaModel):
    config_class = OwnConfig
"""


def with_code(tiny_encoder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An encoder whose class comes with it, and the file that its code makes."""
    named = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    folder = reshaped(tiny_encoder, tmp_path / "hf", {"model_type": "own", "auto_map": named})
    (folder / "own.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    return folder, tmp_path / "ran"


def test_code_of_a_folder_is_run_when_asked_for_and_never_otherwise(
    tiny_encoder: Path, sides: dict[str, str], tmp_path: Path
) -> None:
    folder, marker = with_code(tiny_encoder, tmp_path)
    words = ["launcher/evaluate.py", "retrieval", "--model", str(folder), "--nountrained"]
    words += [word for key, path in sides.items() for word in (f"--{key}", path)]

    def called(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words, *more],
            cwd=ROOT,
            env=environment() | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
            input="y\n" * 5,
            text=True,
            capture_output=True,
            timeout=240,
            check=False,
        )

    refused = called()
    assert refused.returncode == 2
    assert "brings Python code of its own (auto_map in config.json), which is not run" in refused.stderr.splitlines()[-1]
    assert not marker.exists()
    done = called("--trust_remote_code")
    assert done.returncode == 0, done.stderr
    assert marker.exists()


def test_fine_tuning_runs_no_code_of_a_folder_whatever_is_typed(
    tiny_encoder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker = with_code(tiny_encoder, tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match="brings Python code of its own"):
        run(Experiment(Xnli(), "transfer", folder, FileOptions(pairs, {}), tmp_path / "to", (1,), QUICK))
    with pytest.raises(InputError, match="brings Python code of its own"):
        tatoeba.run(folder, pairs, tmp_path / "to")
    assert not marker.exists()
    assert not (tmp_path / "to").exists()


# -- fine-tuning --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_training_in_one_line(tiny_encoder: Path, pairs: Path, tmp_path: Path) -> None:
    """Weights that are finite, and so large that what they compute is not."""
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    weights = load_file(encoder / "model.safetensors")
    large = {
        name: tensor * 1e30 if name.endswith("intermediate.dense.weight") else tensor for name, tensor in weights.items()
    }
    save_file(large, encoder / "model.safetensors", {"format": "pt"})
    options = ["--model", encoder, "--data", pairs, "--to", tmp_path / "to", "--seeds", "4,", "--precision", "fp32"]
    overrides = ["batch_size=16", "epochs=1", "max_length=40"]
    done = run_script("launcher/finetune.py", "xnli", *options, *overrides)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "seed 4, step 1: the loss is nan" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "to/seed_4/result.json").exists()
    assert not (tmp_path / "to/results.json").exists()


def test_a_half_precision_encoder_is_fine_tuned_as_its_fp32_copy(tiny_encoder: Path, pairs: Path, tmp_path: Path) -> None:
    half = reshaped(tiny_encoder, tmp_path / "half", {"dtype": "float16"}, lambda w: {k: v.half() for k, v in w.items()})
    whole = reshaped(half, tmp_path / "whole", {"dtype": "float32"}, lambda w: {k: v.float() for k, v in w.items()})
    for folder in (half, whole):
        run(Experiment(Xnli(), "transfer", folder, FileOptions(pairs, {}), tmp_path / f"{folder.name}_to", (1,), QUICK))
    ours, theirs = (load_file(tmp_path / f"{name}_to/seed_1/model/model.safetensors") for name in ("half", "whole"))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture
def paraphrases(tmp_path: Path) -> Path:
    """PAWS-X in XTREME's layout."""
    folder = tmp_path / "pawsx"
    folder.mkdir()
    for part, count in (("train", 32), ("dev", 16), ("test", 16)):
        rows = [f"Monday {n} April\tApril {n} Monday\t{n % 2}\n" for n in range(count)]
        (folder / f"{part}-en.tsv").write_text("".join(rows))
    return folder


def test_an_nli_head_gives_way_to_one_of_another_size_and_goes_on_in_its_own_task(
    tiny_encoder: Path, pairs: Path, paraphrases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_encoder(tiny_encoder)
    torch.manual_seed(0)
    classes = ("NEUTRAL", "CONTRADICTION", "ENTAILMENT")
    opened.model(AutoModelForSequenceClassification, classes).save_pretrained(tmp_path / "nli")
    opened.tokenizer.save_pretrained(tmp_path / "nli")
    files = FileOptions(paraphrases, {})
    run(Experiment(PawsX(), "transfer", tmp_path / "nli", files, tmp_path / "a", (1,), QUICK))
    told = capsys.readouterr().out
    assert (
        "head: starts new (the folder's is of NEUTRAL, CONTRADICTION, ENTAILMENT, the task's classes are different" in told
    )
    saved = json.loads((tmp_path / "a/seed_1/model/config.json").read_text())
    assert saved["id2label"] == {"0": "different", "1": "paraphrase"}
    run(Experiment(Xnli(), "transfer", tmp_path / "nli", FileOptions(pairs, {}), tmp_path / "b", (1,), QUICK))
    assert "head: the folder's goes on" in capsys.readouterr().out
    saved = json.loads((tmp_path / "b/seed_1/model/config.json").read_text())
    assert saved["id2label"] == {"0": "neutral", "1": "contradiction", "2": "entailment"}


def test_another_test_set_of_the_same_name_is_not_averaged_in_as_another_seed(
    tiny_encoder: Path, pairs: Path, tmp_path: Path
) -> None:
    for name, lines in (("one", slice(0, 18)), ("two", slice(18, 36))):
        (tmp_path / name).mkdir()
        rows = (pairs / "test-fr.tsv").read_text(encoding="utf-8").splitlines()[lines]
        (tmp_path / name / "test.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def scored(test: str, seed: int) -> dict[str, Any]:
        files = FileOptions(pairs, {"test": test})
        return run(Experiment(Xnli(), "transfer", tiny_encoder, files, tmp_path / "to", (seed,), QUICK, keep_models=False))

    english = f"en={pairs / 'test-en.tsv'}"
    scored(f"fr={tmp_path / 'one/test.tsv'},{english}", 1)
    for other in (f"fr={tmp_path / 'two/test.tsv'},{english}", f"de={tmp_path / 'one/test.tsv'},{english}"):
        with pytest.raises(InputError, match=r"holds scores of other settings \(data\.test\."):
            scored(other, 2)
    content = scored(f"fr={tmp_path / 'one/test.tsv'},{english}", 2)
    assert content["paper"] is None
    assert "examples in" in content["not_the_papers_data"]
