"""A tokenizer.json gives transformers' ids, says of itself what its special tokens are, and is refused where it cannot."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep import embedded
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.json_vocabulary import JsonVocabulary
from ernie_m.corpus.unknown_pieces import count
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import BTMLM, CAMLM, MMLM, TLM, XLCO
from tests.tokenizer_fixtures import KINDS, LOCALES, SMALL, changed, gemma, llama, saved, sentences

ODD = [
    " in front",
    "behind ",
    "  two  spaces ",
    "a\tb",
    "x\u3000y",
    "e\u0301a\u0308",
    "…—“”",
    "1111 222,333.4",
    "🙂🙃",
    "\u200bz",
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Real words of eighty languages, and sentences of the embedded corpus."""
    of_cldr = [sentence for code in LOCALES for sentence in sentences(code)[:12]]
    of_the_embedded_corpus = [embedded.sentence(0, i, language) for language in embedded.LANGUAGES for i in range(60)]
    return of_cldr + of_the_embedded_corpus


@pytest.fixture(scope="module")
def folders(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(lines[::2], tmp_path_factory.mktemp("tokenizer") / "hf", 3000) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    texts = [embedded.sentence(0, i, language) for language in ("en", "fr") for i in range(100)]
    return {kind: make(texts, tmp_path_factory.mktemp("small") / "hf", SMALL) for kind, make in KINDS.items()}


def in_lists(vocabulary: JsonVocabulary, texts: list[str]) -> list[list[int]]:
    values, offsets = vocabulary.encode_batch(texts)
    return [part.tolist() for part in np.split(values, offsets[1:-1])]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_in_eighty_languages(kind: str, folders: dict[str, Path], lines: list[str]) -> None:
    texts = [*lines, *(unicodedata.normalize("NFD", line) for line in lines[::7]), *ODD]
    theirs = AutoTokenizer.from_pretrained(folders[kind])
    assert len({script[:5] for script in (unicodedata.name(c, "") for line in lines for c in line)}) > 20
    ours = open_vocabulary(folders[kind])
    assert isinstance(ours, JsonVocabulary)
    assert ours.kind == kind
    assert in_lists(ours, texts) == theirs(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_specials_are_those_of_transformers(kind: str, folders: dict[str, Path]) -> None:
    theirs, specials = AutoTokenizer.from_pretrained(folders[kind]), open_vocabulary(folders[kind]).specials
    a, b = (theirs(text, add_special_tokens=False)["input_ids"] for text in ("one", "two"))
    before_second = [] if specials.begin_second is None else [specials.begin_second]
    assert [specials.begin, *a, specials.end] == theirs("one")["input_ids"]
    assert [specials.begin, *a, specials.end, *before_second, *b, specials.end] == theirs("one", "two")["input_ids"]
    named = (theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id)
    assert (specials.pad, specials.unknown, specials.mask) == named
    assert specials.vocab_size == len(theirs)
    assert specials.first_position == (0 if kind == "WordPiece" else 2)
    replaceable = {*specials.replacements(np.arange(specials.num_replaceable)).tolist()}
    unused = {i for name, i in theirs.get_vocab().items() if name.startswith("[unused")}
    assert bool(unused) == (kind == "WordPiece")
    assert replaceable == {*range(len(theirs))} - {*theirs.all_special_ids} - unused


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (llama, Specials(800, 801, 800, 804, None, 803, 0, 805, ((0, 800),))),
        (gemma, Specials(2, 1, None, 0, 3, 4, 0, 800, ((8, 800),))),
    ],
)
def test_layouts_of_encoders_made_of_decoders(
    make: Callable[..., Path], expected: Specials, lines: list[str], tmp_path: Path
) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(make(lines[::4], tmp_path, 800)), open_vocabulary(tmp_path)
    texts = [*lines[::3], *ODD]
    assert ours.specials == expected
    assert in_lists(ours, texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    second = [] if expected.begin_second is None else [expected.begin_second]
    a, b = (theirs(text, add_special_tokens=False)["input_ids"] for text in ("one", "two"))
    assert theirs("one", "two")["input_ids"] == [expected.begin, *a, expected.end, *second, *b, expected.end]


def test_XLM_Rs_layout_is_found_in_its_tokenizer_json(folders: dict[str, Path]) -> None:
    vocabulary = open_vocabulary(folders["Unigram"])
    assert vocabulary.specials == Specials.xlm_r(vocabulary.size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_texts_one_by_one(kind: str, small: dict[str, Path], lines: list[str]) -> None:
    vocabulary = open_vocabulary(small[kind] / "tokenizer.json")
    for texts in ([*lines[::50], "", " "], [], [""], ["one two"] * 5000):
        values, offsets = vocabulary.encode_batch(texts)
        assert (values.dtype, offsets.dtype, len(offsets)) == (np.int32, np.int64, len(texts) + 1)
        for text, start, end in list(zip(texts, offsets[:-1], offsets[1:], strict=True))[-10:]:
            assert np.array_equal(values[start:end], vocabulary.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_text_are_text(kind: str, folders: dict[str, Path]) -> None:
    vocabulary, names = (
        open_vocabulary(folders[kind]),
        ("<s>", "</s>", "<pad>", "<mask>", "[MASK]", "[CLS]", "[SEP]", "[PAD]"),
    )
    ids = vocabulary.encode(f"a {' '.join(names)} b {''.join(names)}")
    assert vocabulary.specials.are_text(ids).all()
    if kind == "byte-level BPE":
        assert vocabulary.decode(ids.tolist()) == f"a {' '.join(names)} b {''.join(names)}"


def test_names_that_the_normaliser_also_sees_are_text_too(small: dict[str, Path], tmp_path: Path) -> None:
    """One that drops noncharacters would undo the hiding of a special token that it is applied to."""

    def normalised(content: dict[str, Any]) -> None:
        content["added_tokens"] = [{**token, "normalized": True} for token in content["added_tokens"]]
        content["normalizer"] = {"type": "Replace", "pattern": {"String": "\uffff"}, "content": ""}

    vocabulary = open_vocabulary(changed(small["WordPiece"], tmp_path / "t", normalised))
    assert vocabulary.specials.are_text(vocabulary.encode("a [MASK] b [SEP]")).all()


def test_a_special_token_that_a_text_is_turned_into_stops_the_build_by_name(small: dict[str, Path], tmp_path: Path) -> None:
    """A normaliser may write what is hidden; nothing else can."""
    hiding = [{"type": "Replace", "pattern": {"String": "X"}, "content": "\uffff<s>"}]
    folder = changed(small["Unigram"], tmp_path / "t", lambda it: it["normalizer"].update(normalizers=hiding))
    with pytest.raises(InputError, match="makes the special token '<s>' of the text 'an X here'"):
        open_vocabulary(folder).encode_batch(["fine", "an X here"])


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_text_come_back(kind: str, small: dict[str, Path]) -> None:
    vocabulary, theirs = open_vocabulary(small[kind]), AutoTokenizer.from_pretrained(small[kind])
    text = embedded.sentence(0, 0, "en")
    ids = vocabulary.encode(text).tolist()
    everything = [*ids, *theirs.all_special_ids]
    assert vocabulary.pieces(everything) == theirs.convert_ids_to_tokens(everything)
    assert vocabulary.decode(everything) == theirs.decode(ids)


def test_padding_and_truncation_of_the_file_do_nothing(small: dict[str, Path], tmp_path: Path) -> None:
    """Sentence encoders are published with both."""
    tokenizer = Tokenizer.from_file(str(small["Unigram"] / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = ["an", embedded.sentence(0, 1, "en")]
    plain, cut = (in_lists(open_vocabulary(folder), texts) for folder in (small["Unigram"], tmp_path))
    assert cut == plain
    assert len(plain[0]) < 4 < len(plain[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_tokenizer_json_says_the_same_by_itself(kind: str, small: dict[str, Path], tmp_path: Path) -> None:
    bare = changed(small[kind], tmp_path / "bare", lambda _: None)
    assert [path.name for path in bare.iterdir()] == ["tokenizer.json"]
    assert open_vocabulary(bare).specials == open_vocabulary(small[kind]).specials


def test_the_first_position_is_that_of_the_model_beside_it(small: dict[str, Path], tmp_path: Path) -> None:
    """multilingual-e5-small is a BERT with XLM-R's tokenizer."""
    folder = changed(small["Unigram"], tmp_path / "e5", lambda _: None)
    for model_type, first in (("bert", 0), ("xlm-roberta", 2), ("modernbert", 0)):
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert open_vocabulary(folder).specials.first_position == first


def test_ids_that_follow_the_model_stay_where_special_and_other_added_tokens_alternate(
    small: dict[str, Path], tmp_path: Path, lines: list[str]
) -> None:
    """ModernBERT's file: added tokens of both kinds, numbered behind the model's."""
    tokenizer = Tokenizer.from_file(str(small["byte-level BPE"] / "tokenizer.json"))
    for number, name in enumerate(("|||A|||", "<|x|>", "   ", "<|y|>", "  ")):
        tokenizer.add_tokens([AddedToken(name, special=number % 2 == 1, normalized=False)])
    folder = saved(tokenizer, tmp_path / "hf", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    texts = [*lines[::20], "a   b  c |||A||| d", "x     y"]
    vocabulary = open_vocabulary(folder)
    theirs = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False)["input_ids"]
    assert in_lists(vocabulary, texts) == theirs
    size = vocabulary.size
    assert vocabulary.specials.replaceable == ((5, size - 4), (size - 3, size - 2), (size - 1, size))


def test_byte_level_has_no_unknown_and_bytes_of_a_fallback_are_unknown(small: dict[str, Path]) -> None:
    vocabulary = open_vocabulary(small["byte-level BPE"])
    assert count(vocabulary.encode("ሀለሐ नमस्ते"), vocabulary.unknown_ids).unknown == 0
    vocabulary = open_vocabulary(small["WordPiece"])
    assert count(vocabulary.encode("ሀለሐ नमस्ते"), vocabulary.unknown_ids).share == 1
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256)), "a"]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(tokens)}, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    folder = saved(tokenizer, small["WordPiece"].parent / "bytes", tokens[:5])
    vocabulary = open_vocabulary(folder)
    assert count(vocabulary.encode("aaሀ"), vocabulary.unknown_ids).unknown == 3


def decoders_own(folder: Path) -> None:
    """GPT-2's: an end of text, and nothing around."""
    tokenizer = Tokenizer(models.BPE({"<|endoftext|>": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.save_pretrained(folder)


def without_token(name: str) -> Callable[[dict[str, Any]], None]:
    """Make it an ordinary piece."""

    def change(content: dict[str, Any]) -> None:
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != name]

    return change


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], dict[str, Any] | None, str]] = {
    "no pad": ("WordPiece", without_token("[PAD]"), None, "it has no pad token"),
    "neither": (
        "byte-level BPE",
        lambda it: [without_token(name)(it) for name in ("<mask>", "<pad>")],
        {},
        "it has no pad token; it has no mask token",
    ),
    "a mask that the vocabulary lacks": (
        "WordPiece",
        lambda _: None,
        {"mask_token": "[MASQUE]"},
        r"its mask_token '\[MASQUE\]' is not in its vocabulary",
    ),
    "an id around that the vocabulary lacks": (
        "byte-level BPE",
        lambda it: it["post_processor"].update(cls=["<s>", 7_000]),
        None,
        "it puts the id 7000 around a text, which its vocabulary lacks",
    ),
    "an added id that the vocabulary lacks": (
        "byte-level BPE",
        lambda it: it["added_tokens"].append({**it["added_tokens"][0], "id": 9_999, "content": "<x>"}),
        None,
        "its added token '<x>' has the id 9999, which its vocabulary lacks",
    ),
    "two in front": (
        "WordPiece",
        lambda it: it["post_processor"]["single"].insert(0, it["post_processor"]["single"][0]),
        None,
        "it puts 2 tokens before a text, expected one",
    ),
    "nothing behind": (
        "WordPiece",
        lambda it: it["post_processor"]["single"].pop(),
        None,
        "it puts no token behind a text",
    ),
    "dropout": (
        "byte-level BPE",
        lambda it: it["model"].update(dropout=0.1),
        None,
        "dropout 0.1: its ids are drawn at random",
    ),
    "a merge to a special token": (
        "byte-level BPE",
        lambda it: (
            it["model"]["vocab"].update({"<s": len(it["model"]["vocab"])}),
            it["model"]["merges"].extend([["<", "s"], ["<s", ">"]]),
        ),
        None,
        "a merge writes its special token '<s>'",
    ),
    "other rules beside": (
        "WordPiece",
        lambda _: None,
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "lowercase of its BertNormalizer is False, of tokenizer_config.json do_lower_case is True",
    ),
    "BERT's default beside": (
        "WordPiece",
        lambda _: None,
        {"tokenizer_class": "BertTokenizerFast"},
        "do_lower_case is True, and transformers' BertTokenizer goes by the latter",
    ),
    "no model": (
        "WordPiece",
        lambda it: it.pop("model"),
        None,
        r"not a tokenizer.json of the `tokenizers` library \(KeyError",
    ),
    "another model": (
        "WordPiece",
        lambda it: it["model"].update(type="Magic"),
        None,
        "not a tokenizer.json of the `tokenizers` library",
    ),
    "a pad that is the end": (
        "byte-level BPE",
        lambda _: None,
        {"pad_token": "</s>", "mask_token": "<mask>"},
        "begin 0, end 2, pad 2 and mask 4 share ids",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_encoders_tokenizer_is_refused_by_one_line(fault: str, small: dict[str, Path], tmp_path: Path) -> None:
    kind, change, config, message = FAULTS[fault]
    with pytest.raises(InputError, match=message) as caught:
        open_vocabulary(changed(small[kind], tmp_path / "t", change, config))
    assert str(caught.value).startswith(f"tokenizer {tmp_path / 't' / 'tokenizer.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_mask_lays_out_pairs_and_refuses_objectives_with_masks(
    small: dict[str, Path], tmp_path: Path
) -> None:
    """XLCO compares sentences; many sentence encoders never saw a mask."""
    whole = open_vocabulary(small["WordPiece"]).specials
    specials = open_vocabulary(changed(small["WordPiece"], tmp_path / "t", without_token("[MASK]"), None)).specials
    assert specials.mask is None
    assert Specials.from_json(specials.to_json(), "here") == specials
    pair = Example((np.array([7, 8], np.int32), np.array([9], np.int32)), (1, 2))
    laid = [Layout(XLCO, CorruptionConfig(), of).lay_out(pair, 3).input_ids for of in (specials, whole)]
    assert laid[0].tolist() == laid[1].tolist()
    for objective in (MMLM, TLM, CAMLM, BTMLM):
        with pytest.raises(InputError, match=rf"{objective.name}: the tokenizer has no mask token; expected an objective"):
            Layout(objective, CorruptionConfig(), specials)


def test_a_decoders_tokenizer_is_refused_as_one(tmp_path: Path) -> None:
    decoders_own(tmp_path)
    with pytest.raises(InputError, match=r"it puts no token before a text \(a decoder's tokenizer\?\)") as caught:
        open_vocabulary(tmp_path)
    assert "it has no pad token; it has no mask token" in str(caught.value)


def test_files_that_are_no_tokenizer_are_refused_by_one_line(small: dict[str, Path], tmp_path: Path) -> None:
    whole = (small["WordPiece"] / "tokenizer.json").read_bytes()
    (tmp_path / "cut.json").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "cut.json", "not valid JSON"),
        (tmp_path / "list.json", "expected a mapping of keys"),
        (tmp_path / "other.json", "not a tokenizer.json of the `tokenizers` library"),
        (tmp_path / "empty", "a folder without tokenizer.json or sentencepiece.bpe.model"),
        (tmp_path / "none", "no such file; expected a SentencePiece model"),
        (Path("nobody/has-this"), "no hub id whose tokenizer.json is in the local cache; fetch it"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_vocabulary(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_its_hash_is_that_of_the_one_file(small: dict[str, Path]) -> None:
    assert open_vocabulary(small["WordPiece"]).fingerprint == sha256_of(small["WordPiece"] / "tokenizer.json")
