"""A Hugging Face folder with another vocabulary: the same states bit for bit, new rows as means, other files that follow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertConfig, ModernBertConfig

from ernie_m.base.console import InputError
from ernie_m.commands.vocabulary import vocabulary as command
from ernie_m.corpus.editable import RowSources
from ernie_m.corpus.texts import Text
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.new_rows import with_rows
from ernie_m.interop.new_vocabulary import adapt_vocabulary
from tests.tokenizer_fixtures import sentences
from tests.vocabulary_fixtures import KINDS, MANY, NEW, add_model, changed_json, old_lines, write

OLD = old_lines()
CORPORA = [Text("en", OLD["en"]), Text("fr", OLD["fr"])]
NEW_TEXT = Text(NEW, sentences(NEW))
ALL_LINES = [line for lines in OLD.values() for line in lines]
CONFIGS = {"WordPiece": BertConfig, "llama": ModernBertConfig}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """XLM-R's class with XLM-R's tokenizer, BERT's with WordPiece, ModernBERT's with special tokens behind the pieces."""
    made = {}
    for kind in ("SentencePiece unigram", "XLM-R", "WordPiece", "llama"):
        made[kind] = KINDS[kind](ALL_LINES, tmp_path_factory.mktemp("kind") / "hf", MANY)
        add_model(made[kind], 5, CONFIGS[kind]) if kind in CONFIGS else add_model(made[kind], 5)
    return made


def states(folder: Path, line: str) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Pieces, hidden states and logits of a line, with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    encoded = tokenizer(line, return_tensors="pt")
    with torch.no_grad():
        found = model(**encoded, output_hidden_states=True)
    return tokenizer.convert_ids_to_tokens(encoded.input_ids[0]), found.hidden_states[-1], found.logits


@pytest.mark.parametrize("kind", ["SentencePiece unigram", "XLM-R", "WordPiece", "llama"])
def test_a_trimmed_encoder_is_the_same_function_of_the_corpora(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    report = adapt_vocabulary(folders[kind], tmp_path / "out", trim=CORPORA)
    assert [it.changed for it in report.measures] == [0, 0]
    assert report.sizes[1] < report.sizes[0]
    assert report.taken_out == report.sizes[0] - report.sizes[1] > 100
    assert not report.new
    old = [tensor for name, tensor in load_file(folders[kind] / "model.safetensors").items() if "embed" in name]
    assert old[0].shape[0] != report.sizes[0], "rows without a token, which go"
    same = {}
    for line in OLD["en"][:3]:
        (pieces, hidden, logits), (others, also, fewer) = states(folders[kind], line), states(tmp_path / "out", line)
        assert pieces == others
        assert torch.equal(hidden, also)
        assert fewer.shape[-1] == report.sizes[1]
        before, after = (AutoTokenizer.from_pretrained(path) for path in (folders[kind], tmp_path / "out"))
        same = {i: before.convert_tokens_to_ids(name) for name, i in after.get_vocab().items()}
        torch.testing.assert_close(fewer, logits[..., [same[i] for i in range(fewer.shape[-1])]], rtol=1e-6, atol=1e-6)
    config, old_config = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "out", folders[kind]))
    for key in ("pad_token_id", "bos_token_id", "cls_token_id"):
        assert same[config[key]] == old_config[key]
    assert open_encoder(tmp_path / "out").tokenizer.mask_token is not None


def test_new_rows_are_means_in_every_tensor_that_has_rows(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["XLM-R"]
    report = adapt_vocabulary(folder, tmp_path / "out", extend=30, text=[NEW_TEXT], unchanged=CORPORA)
    assert 25 <= len(report.new) <= 30
    assert report.slow_differs == 0
    assert report.taken_out == 0
    assert {it.name: it.changed for it in report.measures if it.name != NEW} == {"en": 0, "fr": 0}
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    old, new = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "out"))
    ids, names = old.get_vocab(), new.get_vocab()
    tensors = [name for name in before if before[name].shape != after[name].shape]
    assert sorted(tensors) == ["lm_head.bias", "roberta.embeddings.word_embeddings.weight"]
    for piece in report.new:
        parts = best_cut(piece, old)
        for name in tensors:
            expected = before[name][[ids[part] for part in parts]].mean(dim=0)
            torch.testing.assert_close(after[name][names[piece]], expected)
    for name in before:
        if name in tensors:
            kept = [piece for piece in ids if piece in names]
            assert torch.equal(before[name][[ids[piece] for piece in kept]], after[name][[names[piece] for piece in kept]])
        else:
            assert torch.equal(before[name], after[name])
    assert after["lm_head.bias"].shape[0] == report.sizes[1] == len(new) == report.sizes[0] + len(report.new)


def best_cut(piece: str, tokenizer: object) -> list[str]:
    """The old pieces of a piece, by trying all cuts of it: the best sum of scores."""
    scores = dict(json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"])  # type: ignore[attr-defined]
    best: dict[str, tuple[float, list[str]]] = {"": (0.0, [])}
    for end in range(1, len(piece) + 1):
        whole = piece[:end]
        cuts = [(best[piece[:at]], piece[at:end]) for at in range(end) if piece[at:end] in scores and piece[:at] in best]
        best[whole] = max((score + scores[last], [*parts, last]) for (score, parts), last in cuts)
    return best[piece][1]


def test_rows_are_what_a_loop_makes_of_them() -> None:
    rng = torch.Generator().manual_seed(0)
    old = torch.randn(9, 4, generator=rng).to(torch.bfloat16)
    sources, is_same = [(3,), (0, 2, 2), (), (8,), (5,)], [True, False, False, False, True]
    new = with_rows(old, RowSources.of(sources, is_same))
    expected = [old[list(ids)].float().mean(0) if ids else old.float().mean(0) for ids in sources]
    assert new.dtype == old.dtype
    assert torch.equal(new, torch.stack(expected).to(torch.bfloat16))
    bias = torch.randn(9, generator=rng)
    assert torch.allclose(with_rows(bias, RowSources.of([(1, 2)], [False])), bias[1:3].mean())
    assert np.array_equal(RowSources.of(sources, is_same).same(), [3, -1, -1, -1, 5])


def test_the_command_writes_a_folder_and_tells_what_it_did(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {code: str(write(tmp_path / f"{code}.txt", lines)) for code, lines in {**OLD, NEW: sentences(NEW)}.items()}
    source = tmp_path / "source"
    shutil.copytree(folders["SentencePiece unigram"], source)
    modules = ("1_Pooling", "further/dense")
    for name in modules:
        (source / name).mkdir(parents=True)
        (source / name / "config.json").write_text("{}")
    (source / "modules.json").write_text(json.dumps([{"path": name} for name in ("", *modules, "2_Normalize")]))
    (source / "onnx").mkdir()
    changed_json(source, "config.json", torch_dtype="float32")
    command(
        model=str(source), to=str(tmp_path / "new" / "out"), trim=f"{files['en']},{files['de']}", extend=25, text=files[NEW]
    )
    shown = capsys.readouterr().out
    assert f"no new piece stands in the old text: {files['en']}, {files['de']}" in shown
    assert f"{files[NEW]} " in shown
    assert "0 of 150" in shown
    assert " new\n" in shown
    out = tmp_path / "new" / "out"
    found = {path.name for path in out.iterdir()}
    tokenizer = {"sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"}
    others = {"modules.json", "1_Pooling", "further", "vocabulary.json"}
    assert found == {"config.json", "model.safetensors", *others, *tokenizer}
    assert all((out / name / "config.json").is_file() for name in modules), "further modules of a sentence encoder"
    assert len(json.loads((out / "vocabulary.json").read_text(encoding="utf-8"))["new"]) > 20
    AutoModel.from_pretrained(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_cannot_be_done_is_a_line_and_leaves_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, out = folders["XLM-R"], tmp_path / "out"
    empty = Text("empty", [])

    def refused(expected: str, source: Path = folder, to: Path = out, **given: object) -> None:
        with pytest.raises(InputError, match=expected) as caught:
            adapt_vocabulary(source, to, **given)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert not out.exists()
        assert not [*tmp_path.glob(".out*")]

    refused("nothing to do: expected --trim FILES, or --extend N")
    refused("--extend -3: expected a whole number from 1 to 200,000, or 0", extend=-3, text=[NEW_TEXT])
    refused("--extend 300000: expected a whole number", extend=300_000, text=[NEW_TEXT])
    refused("how many pieces to learn from it", text=[NEW_TEXT])
    refused("no text to learn pieces from", extend=3)
    refused("--unchanged: no piece is learned without --extend", trim=[NEW_TEXT], unchanged=[NEW_TEXT])
    refused("text empty: no line with a word in it", extend=3, text=[empty])
    refused("no line in it; expected the corpora", trim=[empty])
    refused("exists and stays as it is", to=tmp_path, trim=CORPORA)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for name in ("tokenizer.json", "sentencepiece.bpe.model"):
        (bare / name).unlink()
    refused("neither tokenizer.json nor sentencepiece.bpe.model", bare, trim=CORPORA)
    shutil.copy(folder / "sentencepiece.bpe.model", bare)
    changed_json(bare, "tokenizer_config.json", tokenizer_class="CamembertTokenizer")
    refused("of a CamembertTokenizer, whose ids are not XLM-R's", bare, trim=CORPORA)
    changed_json(bare, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    changed_json(bare, "config.json", model_type="ernie_m")
    refused("model_type ernie_m, which transformers 5 has not", bare, trim=CORPORA)
    changed_json(bare, "config.json", model_type="gpt2", is_decoder=True)
    refused("a decoder", bare, trim=CORPORA)


def test_the_range_of_N_is_told_on_the_command_line(tmp_path: Path) -> None:
    words = ("--model", "x", "--to", str(tmp_path / "out"), "--extend", "999999999", "--text", "x")
    program = f"import sys; sys.argv[1:] = {words!r}\nfrom ernie_m.commands.vocabulary import main; main()"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "--extend 999999999: expected a whole number from 1 to 200,000" in found.stderr
