"""One way to open an encoder: fp32, padding on the right, heads by the names of their classes, no foreign code; all else is
refused in one line."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from ernie_m.base.console import InputError
from ernie_m.interop import piece_rows
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.layout import ERNIE_M, XLM_ROBERTA
from ernie_m.interop.weight_files import read_config

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS, CONFIG = "model.safetensors", "config.json"
OPENING = {"ernie_m/interop/encoder.py", "ernie_m/interop/opening.py", "ernie_m/interop/tokenizer_export.py"}
IDS = torch.tensor([[0, 17, 300, 41, 2], [0, 5, 2, 1, 1]])


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def changed(folder: Path, to: Path, file: str = CONFIG, **values: Any) -> Path:
    """A copy with other values in a JSON file."""
    made = copy_of(folder, to)
    content = json.loads((made / file).read_text(encoding="utf-8"))
    (made / file).write_text(json.dumps(content | values), encoding="utf-8")
    return made


def with_weights(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    made = copy_of(folder, to)
    save_file(change(load_file(made / WEIGHTS)), made / WEIGHTS, {"format": "pt"})
    return made


def states(folder: Path) -> torch.Tensor:
    encoder: Any = open_encoder(folder).model(AutoModel).eval()
    with torch.no_grad():
        found = encoder(IDS, attention_mask=(IDS != 1).long(), output_hidden_states=True).hidden_states
    return torch.stack(found)


def test_encoders_are_opened_in_one_place() -> None:
    """Calls of from_pretrained and from_config are there alone; an export makes its own tokenizer."""
    found = set()
    for path in [*(ROOT / "ernie_m").rglob("*.py"), *(ROOT / "launcher").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == OPENING


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["some/kernels", {"": "sdpa", "text": "some/kernels@main:layer"}])
def test_kernels_of_the_hub_that_a_folder_names_are_not_fetched(
    key: str, value: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """transformers would load what stands there, which is code."""
    with pytest.raises(InputError, match=f"names code of the hub \\({key}\\), which is not run"):
        open_encoder(changed(tiny_encoder, tmp_path, **{key: value}))


def test_of_the_classes_that_a_configuration_names_models_alone_are_built() -> None:
    config = SimpleNamespace(architectures=["Trainer", "pipeline", "utils", 3, "XLMRobertaModel"])
    first, *others = piece_rows._classes(config, "a folder")
    assert first is t.XLMRobertaModel
    assert len(others) == 1, "and the one that transformers has for the model's type"


# -- precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
def test_half_precision_weights_are_computed_with_in_fp32(
    dtype: torch.dtype, auto_class: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    name = str(dtype).removeprefix("torch.")
    half = with_weights(tiny_encoder, tmp_path, lambda weights: {k: v.to(dtype) for k, v in weights.items()})
    content = json.loads((half / CONFIG).read_text(encoding="utf-8"))
    (half / CONFIG).write_text(json.dumps(content | {"dtype": name, "torch_dtype": name}), encoding="utf-8")
    opened = open_encoder(half)
    model = opened.model(auto_class)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in opened.untrained().parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / CONFIG).read_text(encoding="utf-8"))["dtype"] == "float32"
    stored = load_file(half / WEIGHTS)["roberta.embeddings.word_embeddings.weight"]
    own = dict(model.named_parameters())
    assert torch.equal(next(v for k, v in own.items() if k.endswith("word_embeddings.weight")), stored.float())


@pytest.mark.parametrize("auto_class", [t.AutoModel, t.AutoModelForMaskedLM])
def test_weights_of_layers_that_the_configuration_does_not_count_are_refused(
    auto_class: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """They would be left out, and a shallower encoder measured in silence."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "hf"))
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 1}), encoding="utf-8")
    expected = r"its files hold 16 weights of layers that config\.json does not count, first \S*layer\.1\."
    with pytest.raises(InputError, match=expected):
        open_encoder(folder).model(auto_class)


def test_weights_that_are_not_finite_are_refused_by_name(tiny_encoder: Path, tmp_path: Path) -> None:
    def broken(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["roberta.encoder.layer.1.output.dense.bias"][3] = torch.nan
        return weights

    folder = with_weights(tiny_encoder, tmp_path, broken)
    with pytest.raises(InputError, match=r"layer\.1\.output\.dense\.bias holds numbers that are not finite"):
        open_encoder(folder).model(AutoModel)


# -- tokenizer ----------------------------------------------------------------------------------------------------------


def test_padding_and_truncation_are_on_the_right_whatever_the_folder_says(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_encoder, tmp_path, "tokenizer_config.json", padding_side="left", truncation_side="left")
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    opened = open_encoder(folder)
    texts = ["Monday and Tuesday and Wednesday", "Monday"]
    options = {"padding": True, "truncation": True, "max_length": 8, "return_tensors": "pt"}
    ours, theirs = (of.tokenizer(texts, **options) for of in (opened, open_encoder(tiny_encoder)))
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert [choice.subject for choice in opened.choices] == ["tokenizer's padding side", "tokenizer's truncation side"]
    assert open_encoder(tiny_encoder).choices == ()


def test_a_folder_without_a_tokenizer_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    """Of special tokens alone: every word of every text would be unknown."""
    folder = copy_of(tiny_encoder, tmp_path)
    for path in (*folder.glob("tokenizer*"), *folder.glob("sentencepiece*")):
        path.unlink()
    transformers_own = AutoTokenizer.from_pretrained(folder)
    assert len(transformers_own) < 10
    with pytest.raises(InputError, match="its tokenizer knows special tokens alone; expected its files there"):
        open_encoder(folder)


def test_sizes_of_nothing_and_weights_in_integers_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an encoder whose num_hidden_layers is 0"):
        open_encoder(changed(tiny_encoder, tmp_path / "a", num_hidden_layers=0))
    small = with_weights(tiny_encoder, tmp_path / "b", lambda w: {name: (9 * t).to(torch.int8) for name, t in w.items()})
    with pytest.raises(InputError, match=r"is stored as torch.int8; expected weights of 16 bits"):
        open_encoder(small).model(AutoModel)
    unreadable = copy_of(tiny_encoder, tmp_path / "c")
    (unreadable / CONFIG).unlink()
    (unreadable / CONFIG).mkdir()
    with pytest.raises(InputError, match=r"config.json: Is a directory"):
        read_config(unreadable)


def test_a_tokenizer_of_other_weights_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    def few(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value[:50].clone() if "word_emb" in name else value for name, value in weights.items()}

    folder = changed(with_weights(tiny_encoder, tmp_path, few), tmp_path / "b", vocab_size=50)
    with pytest.raises(InputError, match=r"its tokenizer has ids up to 1,\d+, its word table 50 rows"):
        open_encoder(folder)


def test_a_folder_that_was_trained_with_a_language_on_every_token_says_that_none_is_told(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    several = changed(tiny_encoder, tmp_path / "several", type_vocab_size=3, lang2id={"de": 1, "en": 2})
    (choice,) = open_encoder(several).choices
    assert (choice.subject, choice.value) == ("language of the text", "none")
    assert "de, en" in choice.reason
    assert "--language" in choice.reason
    for name, config in (("one", {"lang2id": {"de": 1}}), ("none", {"type_vocab_size": 3}), ("odd", {"lang2id": 7})):
        assert open_encoder(changed(tiny_encoder, tmp_path / name, **config)).choices == ()


SHAPE = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
TABLES = {
    "bert": (t.BertConfig(**SHAPE, max_position_embeddings=20), 20),
    "xlm-roberta": (t.XLMRobertaConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1), 18),
    "camembert": (t.CamembertConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1), 18),
    "mpnet": (t.MPNetConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1), 18),
    "xmod": (t.XmodConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1, default_language="en_XX"), 18),
    "roberta-prelayernorm": (t.RobertaPreLayerNormConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1), 18),
    "esm": (t.EsmConfig(**SHAPE, max_position_embeddings=20, pad_token_id=1, position_embedding_type="absolute"), 18),
    "distilbert": (
        t.DistilBertConfig(vocab_size=40, dim=8, n_layers=2, n_heads=2, hidden_dim=8, max_position_embeddings=20),
        20,
    ),
    "nystromformer": (
        t.NystromformerConfig(**SHAPE, max_position_embeddings=20, num_landmarks=4, segment_means_seq_len=4),
        20,
    ),
    "electra": (t.ElectraConfig(**SHAPE, embedding_size=8, max_position_embeddings=20), 20),
}


@pytest.mark.parametrize("name", TABLES)
def test_texts_are_as_long_as_the_tables_of_positions_allow_and_no_longer(name: str) -> None:
    from ernie_m.interop.opening import longest_input

    class Endless:
        model_max_length = 10**30

    config, expected = TABLES[name]
    model: Any = AutoModel.from_config(config).eval()
    assert longest_input(model, Endless()) == expected
    with torch.no_grad():
        model(torch.full((1, expected), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 23), 5))


# -- heads --------------------------------------------------------------------------------------------------------------

NLI = ("entailment", "neutral", "contradiction")


def with_head(folder: Path, to: Path, auto_class: Any, classes: tuple[str, ...]) -> tuple[Path, Any]:
    """The encoder under a head of these classes, saved with its tokenizer."""
    torch.manual_seed(7)
    opened = open_encoder(folder)
    model: Any = opened.model(auto_class, classes)
    model.save_pretrained(to)
    opened.tokenizer.save_pretrained(to)
    return to, model


@pytest.mark.parametrize(
    "theirs", [NLI, ("NEUTRAL", "Contradiction", "entailment"), ("contradiction", "ENTAILMENT", "neutral")]
)
def test_a_head_of_the_same_classes_goes_on_by_name_in_any_case_and_order(
    theirs: tuple[str, ...], tiny_encoder: Path, tmp_path: Path
) -> None:
    folder, before = with_head(tiny_encoder, tmp_path / "head", AutoModelForSequenceClassification, theirs)
    opened = open_encoder(folder)
    head = opened.head(AutoModelForSequenceClassification, NLI)
    model: Any = opened.model(AutoModelForSequenceClassification, NLI)
    assert head.is_kept
    assert str(head.choice).startswith("head: the folder's goes on")
    assert sorted(head.classes) == sorted(NLI)
    for name in NLI:
        theirs_row = [known.casefold() for known in theirs].index(name)
        assert model.config.id2label[head.classes.index(name)] == name
        kept = model.classifier.out_proj.weight[head.classes.index(name)]
        assert torch.equal(kept, before.classifier.out_proj.weight[theirs_row]), name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("positive", "negative", "neutral"), NLI),  # the size fits, the classes do not
        (("LABEL_0", "LABEL_1", "LABEL_2"), NLI),  # says nothing
        (NLI, ("different", "paraphrase")),  # neither
        (("no", "yes"), NLI),
    ],
)
def test_a_head_of_other_classes_starts_new_whatever_its_size_and_says_so(
    theirs: tuple[str, ...], ours: tuple[str, ...], tiny_encoder: Path, tmp_path: Path
) -> None:
    folder, before = with_head(tiny_encoder, tmp_path / "head", AutoModelForSequenceClassification, theirs)
    drawn = []
    for source in (folder, tiny_encoder):
        torch.manual_seed(3)
        opened = open_encoder(source)
        drawn.append(opened.model(AutoModelForSequenceClassification, ours))
    fresh, plain = (dict(model.named_parameters()) for model in drawn)
    assert all(torch.equal(value, plain[name]) for name, value in fresh.items()), "as if there had been no head"
    assert not torch.equal(fresh["classifier.dense.weight"], before.classifier.dense.weight)
    assert drawn[0].config.id2label == dict(enumerate(ours))
    head = open_encoder(folder).head(AutoModelForSequenceClassification, ours)
    assert str(head.choice) == (
        f"head: starts new (the folder's is of {', '.join(theirs)}, the task's classes are {', '.join(ours)})"
    )
    assert open_encoder(tiny_encoder).head(AutoModelForSequenceClassification, ours).choice is None


def test_a_head_for_words_is_known_by_its_tags_and_one_for_answers_goes_on(tiny_encoder: Path, tmp_path: Path) -> None:
    tags = ("O", "B-LOC", "I-LOC")
    folder, before = with_head(tiny_encoder, tmp_path / "ner", AutoModelForTokenClassification, ("I-LOC", "O", "B-LOC"))
    model: Any = open_encoder(folder).model(AutoModelForTokenClassification, tags)
    assert torch.equal(model.classifier.weight, before.classifier.weight)
    assert open_encoder(folder).head(AutoModelForTokenClassification, tags).classes == ("I-LOC", "O", "B-LOC")
    other = open_encoder(folder).head(AutoModelForTokenClassification, ("O", "B-PER", "I-PER"))
    assert not other.is_kept
    folder, before = with_head(tiny_encoder, tmp_path / "qa", AutoModelForQuestionAnswering, ())
    again: Any = open_encoder(folder).model(AutoModelForQuestionAnswering)
    assert torch.equal(again.qa_outputs.weight, before.qa_outputs.weight)


def test_a_new_head_is_drawn_from_the_seed_and_named(tiny_encoder: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model: Any = open_encoder(tiny_encoder).model(AutoModelForSequenceClassification, ("no", "yes", "?"))
        drawn.append(model.classifier.out_proj.weight)
    assert model.config.id2label == {0: "no", 1: "yes", 2: "?"}
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# -- what is opened -----------------------------------------------------------------------------------------------------


def as_ernie_m(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """XLM-R's weights under ERNIE-M's names; its token type, which that class has not, is taken as zero."""
    names = XLM_ROBERTA.renamed(ERNIE_M, 2, weights)
    return {theirs: weights[ours] for ours, theirs in names.items()}


def without_token_type(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["roberta.embeddings.token_type_embeddings.weight"].zero_()
    return weights


def test_the_class_of_the_paper_computes_what_xlm_rs_does(tiny_encoder: Path, tmp_path: Path) -> None:
    plain = with_weights(tiny_encoder, tmp_path / "plain", without_token_type)
    folder = changed(with_weights(plain, tmp_path / "a", as_ernie_m), tmp_path / "b", model_type="ernie_m", act_dropout=0.0)
    opened = open_encoder(folder)
    assert "ERNIE-M's is not in transformers 5" in str(opened.choices[0])
    assert torch.equal(states(folder), states(plain))
    torch.manual_seed(1)
    headed: Any = opened.model(AutoModelForSequenceClassification, NLI)
    headed.save_pretrained(tmp_path / "saved")
    opened.tokenizer.save_pretrained(tmp_path / "saved")
    assert open_encoder(tmp_path / "saved").head(AutoModelForSequenceClassification, NLI).is_kept


def test_an_incomplete_folder_of_the_papers_class_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    def lacking(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = as_ernie_m(weights)
        del weights["ernie_m.encoder.layers.1.norm2.bias"]
        return weights

    folder = changed(with_weights(tiny_encoder, tmp_path / "a", lacking), tmp_path / "b", model_type="ernie_m")
    with pytest.raises(
        InputError, match=r"1 weights of the encoder are missing, first ernie_m\.encoder\.layers\.1\.norm2\.bias"
    ):
        open_encoder(folder).model(AutoModel)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
def test_a_folder_without_all_weights_of_the_encoder_is_refused(auto_class: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    def lacking(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del weights["roberta.encoder.layer.1.output.dense.weight"]
        return weights

    folder = with_weights(tiny_encoder, tmp_path, lacking)
    with pytest.raises(InputError, match=r"1 weights of the encoder are missing, first .*encoder\.layer\.1\.output"):
        open_encoder(folder).model(auto_class, ())


def test_weights_of_another_shape_than_the_configuration_says_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_encoder, tmp_path, intermediate_size=48)
    with pytest.raises(
        InputError, match=r"has the shape \(64, 32\), by config\.json \(48, 32\)|\(64,\), by config.json \(48,\)"
    ):
        open_encoder(folder).model(AutoModel)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (t.MT5Config(), "model type mt5, an encoder with a decoder behind it; expected an encoder"),
        (t.T5Config(), "model type t5, an encoder with a decoder behind it"),
        (t.GPT2Config(), "model type gpt2, a decoder, whose tokens read only what stands before them"),
        (t.LlamaConfig(), "model type llama, a decoder"),
        (t.BertConfig(is_decoder=True), "model type bert, a decoder"),
        (t.BertConfig(add_cross_attention=True), "model type bert, a decoder"),
        (t.ViTConfig(), "model type vit, no encoder of text"),
        (t.CLIPConfig(), "model type clip, no encoder of text"),
    ],
)
def test_what_is_no_encoder_of_text_is_refused_with_what_it_is(
    config: Any, expected: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder, tmp_path)
    (folder / CONFIG).write_text(json.dumps(config.to_dict()), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        open_encoder(folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (CONFIG, None, "no config.json there; expected a Hugging Face folder, e.g. of `ernie-m export`"),
        (CONFIG, {"num_hidden_layers": "two"}, "not an encoder that transformers knows"),
        (CONFIG, {"model_type": "never_heard_of"}, "not an encoder that transformers knows"),
        (CONFIG, {"hidden_size": -3}, "an encoder whose hidden_size is -3"),
        (CONFIG, {"hidden_act": "gleu"}, "no AutoModel of it (KeyError: 'gleu')"),
        (CONFIG, {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised weights"),
        (CONFIG, {"auto_map": {"AutoModel": "evil.Model"}}, "brings Python code of its own (auto_map in config.json)"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "(auto_map in tokenizer_config.json)"),
        (WEIGHTS, None, "no weights there; expected one of model.safetensors"),
    ],
)
def test_a_folder_of_something_else_is_one_line(
    file: str, change: dict[str, Any] | None, expected: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = changed(tiny_encoder, tmp_path, file, **change) if change else copy_of(tiny_encoder, tmp_path)
    if change is None:
        (folder / file).unlink()
    with pytest.raises(InputError) as caught:
        open_encoder(folder).model(AutoModel)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_something_is_one_line(tiny_encoder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = copy_of(tiny_encoder, tmp_path)
    (folder / WEIGHTS).unlink()
    torch.save({"roberta.embeddings.word_embeddings.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="which is not unpickled"):
        open_encoder(folder).model(AutoModel)
    assert not (tmp_path / "ran").exists()


def test_a_run_of_ours_is_told_to_be_exported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match=r"expected a Hugging Face folder, which `ernie-m export` makes of this run"):
        open_encoder(tmp_path)
