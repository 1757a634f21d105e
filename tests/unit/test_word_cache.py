"""Encoding by words gives SentencePiece's ids, bit for bit: SentencePiece on the whole text is the oracle throughout."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_prep.words import segmentation_gap, word_cache
from data_prep.words.segmentation_gap import SegmentationGap
from data_prep.words.word_cache import WordCache
from ernie_m.corpus.vocabulary import EncodedTexts, Vocabulary

LETTERS = (
    "abcdeilnorstABT", "äéñœßŁıșﬁ", "бвеинорст", "αεικνορς", "אבהוילר", "ابنهولي", "कनरसेा्ि", "กคงนมรา่ี", "的一是不了人我",
    "のはをにかたーパ", "한국어는말", "ამნირ",
    "აՀայեր", "አማርኛሰ", "မြန်ာစ", "0123456789", "11=-.…!?,;:()«»\"'", "😀🏽👍𝔘𝟙", "①½ﬀ㎏㈱Å",
)  # fmt: skip
MARKS = "\u0301\u0308\u0327\u064b\u0651\u093c\u200d\u200c\ufe0f\u0345"
SPACES = "\u00a0\u3000\t\n\r\u2003\u200b\ufeff\u2028\u00a8\u00b4\u2581\u0085\x01\x7f\u00ad\x00"


def lines_of(seed: int, count: int) -> list[str]:
    """Lines over many scripts: words that come again, repeated characters, marks, spaces of all kinds, empty lines."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(draw.choice(LETTERS), k=draw.randint(1, 9))) for _ in range(400)]
    words += [draw.choice("1=.ahаク") * draw.randint(1, 60) for _ in range(60)]
    words += [word[:2] + draw.choice(MARKS) + word[2:] for word in words[:100]]
    odd = [draw.choice(words) + draw.choice(SPACES) * draw.randint(1, 2) + draw.choice(words) for _ in range(60)]
    odd += [draw.choice(SPACES) * draw.randint(1, 3) for _ in range(40)] + ["", ""]
    lines = []
    for _ in range(count):
        length = draw.choice((0, 1, 3, 8, 8, 8, 30, 200))
        line = " ".join(draw.choices(words, k=length))
        if draw.random() < 0.2:
            line = " ".join([*draw.choices(odd, k=draw.randint(1, 3)), line, *draw.choices(odd, k=draw.randint(0, 2))])
        lines.append(line)
    return lines


def trained(path: Path, **changes: object) -> Path:
    arguments: dict[str, object] = {
        "vocab_size": 500, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "minloglevel": 3,
        "character_coverage": 0.999, "normalization_rule_name": "nmt_nfkc", "num_threads": 1,
    }  # fmt: skip
    text = [line.replace("\0", "") for line in lines_of(1, 2000)]
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=file, hard_vocab_limit=False, **{**arguments, **changes}
        )
    return path


KINDS: dict[str, dict[str, object]] = {
    "unigram": {},
    "bpe": {"model_type": "bpe"},
    "unigram with bytes": {"byte_fallback": True, "vocab_size": 800, "character_coverage": 0.98},
    "bpe with bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 800, "character_coverage": 0.98},
    "no normalisation": {"normalization_rule_name": "identity"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Vocabulary]:
    folder, made = tmp_path_factory.mktemp("models"), {}

    def model(kind: str) -> Vocabulary:
        if kind not in made:
            made[kind] = Vocabulary(trained(folder / f"{kind}.model", **KINDS[kind]))
        return made[kind]

    return model


def handmade(path: Path, pieces: dict[str, float], change: Callable[[Any], None] = lambda model: None) -> Vocabulary:
    """A unigram model of these pieces."""
    model = sentencepiece_model_pb2.ModelProto()
    for text, score, kind in [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((t, s, 1) for t, s in pieces.items())]:
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.normalizer_spec.name = "identity"
    change(model)
    path.write_bytes(model.SerializeToString())
    return Vocabulary(path)


def assert_same(found: EncodedTexts, expected: EncodedTexts, texts: list[str]) -> None:
    assert found.values.dtype == np.int32
    assert found.offsets.dtype == np.int64
    if not (np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.values, expected.values)):
        for i, text in enumerate(texts):
            ours, theirs = (e.values[e.offsets[i] : e.offsets[i + 1]].tolist() for e in (found, expected))
            assert ours == theirs, repr(text)
    assert len(found.offsets) == len(texts) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_all_scripts_and_oddities_get_the_ids_of_the_whole_text(models: Callable, kind: str) -> None:
    vocabulary, draw = models(kind), random.Random(5)
    cache = WordCache(vocabulary)
    assert cache.choice.value == "on", cache.choice.reason
    texts = lines_of(2, 1500) + lines_of(1, 500)
    expected = vocabulary.encode_batch(texts)
    for _ in range(3):
        assert_same(cache.encode_batch(texts), expected, texts)
    assert cache.words_known > 0.3 * cache.words_seen, "the words must come from the cache, or nothing is tested"
    assert 0 < cache.texts_whole < 0.9 * cache.texts_seen
    for text in draw.sample(texts, 100):
        assert_same(cache.encode_batch([text]), vocabulary.encode_batch([text]), [text])
    assert_same(cache.encode_batch([]), vocabulary.encode_batch([]), [])


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_every_character_beside_a_space(models: Callable, kind: str) -> None:
    """All of Unicode but private use: what a rule makes of a character must not depend on a neighbour over a space."""
    vocabulary = models(kind)
    cache = WordCache(vocabulary)
    characters = [chr(c) for c in [*range(0xD800), *range(0xF900, 0x20000)]]
    texts = [f"a{c} {c}b {c}" for c in characters]
    expected = vocabulary.encode_batch(texts)
    for _ in range(2):
        assert_same(cache.encode_batch(texts), expected, texts)
    assert cache.words_known > 0


NEAR_TIES = {"▁": -2.1, "1": -3.3000002, "11": -5.7000003, "111": -8.1, "a": -2.7, "b": -1.3, "▁c": -7.77}


def test_where_the_text_in_front_decides_a_tie_the_cache_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = handmade(tmp_path / "ties.model", NEAR_TIES)
    draw = random.Random(3)
    texts = [
        " ".join("".join(draw.choices(("1", "11", "a", "b", "c"), k=draw.randint(1, 6))) for _ in range(30))
        for _ in range(300)
    ]
    texts += texts
    expected = vocabulary.encode_batch(texts)
    alone = {word: vocabulary.encode(word).tolist() for text in texts for word in text.split(" ")}
    changed = [t for t in texts if vocabulary.encode(t).tolist() != [i for word in t.split(" ") for i in alone[word]]]
    assert len(changed) > 10, "no text whose context decides: nothing is tested"
    cache = WordCache(vocabulary)
    for _ in range(2):
        assert_same(cache.encode_batch(texts), expected, texts)
    assert cache.words_known > 0
    monkeypatch.setattr(SegmentationGap, "limits", lambda self, words, *encoded: np.full(len(words), np.inf, np.float32))
    careless = WordCache(vocabulary)
    careless.encode_batch(texts)
    assert not np.array_equal(careless.encode_batch(texts).values, expected.values), "the limits make no difference here"


def test_long_texts_have_smaller_limits(tmp_path: Path) -> None:
    """A gap of a few roundings holds in a short text and not in a long one; the cache is right in both and differs."""
    vocabulary = handmade(tmp_path / "near.model", {"▁": -2.1, "x": -4.0, "y": -3.0, "xy": -6.9998, "▁z": -9.0})
    cache = WordCache(vocabulary)
    short, long = ["z xy z"] * 3, ["z " * 2000 + "xy"] * 3
    for texts in (short, long):
        for _ in range(2):
            assert_same(cache.encode_batch(texts), vocabulary.encode_batch(texts), texts)
    before = cache.texts_whole
    cache.encode_batch(short)
    assert cache.texts_whole == before
    cache.encode_batch(long)
    assert cache.texts_whole == before + 3


def test_the_gap_is_that_of_all_segmentations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the second-best one holds an unknown character: `ca` is a piece, `c` is none."""
    monkeypatch.setattr(segmentation_gap, "MAX_SCORE", np.inf)
    draw = random.Random(11)
    pieces = {"▁": -3.0, "a": -2.0, "b": -2.5, "ca": -6.0} | {
        "".join(draw.choices("ab", k=draw.randint(2, 5))): -draw.randint(4, 60) / 8 for _ in range(12)
    }
    pieces |= {"▁" + piece: score - 1 for piece, score in list(pieces.items())[4:8]}
    vocabulary = handmade(tmp_path / "all.model", pieces)
    gap = SegmentationGap(vocabulary.model_proto())
    words = ["".join(draw.choices("abc", k=draw.randint(1, 8))) for _ in range(80)] + [""]
    scores = {**pieces, "c": min(pieces.values()) - segmentation_gap.UNKNOWN_PENALTY}
    limits = gap.limits(vocabulary.normalised(words), *vocabulary.encode_batch(words))
    assert 10 < (limits > 0).sum() < len(words)
    for word, limit in zip(words, limits.tolist(), strict=True):
        text = "▁" + word if word else ""
        cuts = [c for k in range(len(text)) for c in combinations(range(1, len(text)), k)]
        ways = [[text[i:j] for i, j in zip((0, *c), (*c, len(text)), strict=True)] for c in cuts]
        ways = sorted((sum(scores[p] for p in way), "c" in way) for way in ways if all(p in scores for p in way))
        (best, has_unknown), (second, _) = (
            (ways[-1], [(-np.inf, False), *ways][-2]) if word else ((0.0, False), (-np.inf, False))
        )
        expected = (best - second) / (2 * 2.0**-24 * 1.1 * max(1, len(text)))
        assert limit == pytest.approx(0.0 if has_unknown else expected, rel=1e-5), word


def damaged(**spec: object) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in spec.items():
            setattr(model.normalizer_spec if hasattr(model.normalizer_spec, name) else model.trainer_spec, name, value)

    return change


def as_kind(kind: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.pieces[6].type = kind

    return change


@pytest.mark.parametrize(
    ("pieces", "change", "reason"),
    [
        ({"▁": -1, "a": -2, "b▁a": -1.5}, damaged(), "'b▁a' reaches over a space"),
        ({"▁": -1, "a": -2, "▁▁": -1.5}, damaged(), "'▁▁' reaches over a space"),
        ({"▁a": -1, "a": -2, "b": -3}, damaged(), "U\\+2581 is no piece"),
        ({"▁": -1, "a": 0.5}, damaged(), "score 0.5"),
        ({"▁": -1, "a": -2}, damaged(add_dummy_prefix=False), "add_dummy_prefix=false"),
        ({"▁": -1, "a": -2}, damaged(remove_extra_whitespaces=False), "remove_extra_whitespaces=false"),
        ({"▁": -1, "a": -2}, damaged(treat_whitespace_as_suffix=True), "end with the space"),
        ({"▁": -1, "a": -2}, damaged(model_type=3), "neither a unigram nor a BPE"),
        ({"▁": -1, "a": -2, "b": -1, "ab": -1}, as_kind(4), "'ab' is user-defined or unused"),
        ({"▁": -1, "a": -2, "b": -1, "ab": -1}, as_kind(5), "'ab' is user-defined or unused"),
    ],
)
def test_models_whose_words_depend_on_each_other_turn_the_cache_off(
    tmp_path: Path, pieces: dict[str, float], change: Callable[[Any], None], reason: str
) -> None:
    vocabulary = handmade(tmp_path / "odd.model", pieces, change)
    cache = WordCache(vocabulary)
    assert cache.choice.value == "off"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(cache.choice.reason)
    texts = ["ab a", "b  a b", " a"] * 3
    for _ in range(2):
        assert_same(cache.encode_batch(texts), vocabulary.encode_batch(texts), texts)
    assert cache.words_seen == 0


@pytest.mark.parametrize(
    ("rule", "is_on"),
    [("61 20\t78", False),
        ("61 20\t20", False), ("20 61\t78", False), ("61 20 62\t78", False), ("20\t5F", False), ("61 62 63\t78", True),
     ("61\t20 20", False), ("61\t2581", False), ("61\t20", True)],
)  # fmt: skip
def test_rules_of_normalisation_that_look_over_a_space_are_found(tmp_path: Path, rule: str, is_on: bool) -> None:
    (tmp_path / "rules.tsv").write_text("41\t61\n41 42\t62\n" + rule + "\n")
    path = trained(
        tmp_path / "rules.model", normalization_rule_tsv=str(tmp_path / "rules.tsv"), vocab_size=320, model_type="bpe"
    )
    assert (WordCache(Vocabulary(path)).choice.value == "on") is is_on


def test_what_is_remembered_is_bounded_and_decides_nothing(models: Callable) -> None:
    vocabulary, texts = models("unigram"), lines_of(4, 1200)
    expected = vocabulary.encode_batch(texts)
    states = []
    for max_words in (1, 7, 60, 200, 200):
        cache = WordCache(vocabulary, max_words)
        for size in (50, 300, 50):
            for i in range(0, len(texts), size):
                ids = cache.encode_batch(texts[i : i + size])
                ends = expected.offsets[i : i + size + 1]
                assert_same(ids, EncodedTexts(expected.values[ends[0] : ends[-1]], ends - ends[0]), texts[i : i + size])
                assert cache._table.num_words <= max_words
                assert len(cache._pool.filled) <= 60 * max_words
        states.append((cache.words_known, cache.texts_whole))
    assert states[3] == states[4], "the same texts in the same order leave the same state"
    assert states[3][0] > states[0][0]
    cache.clear()
    assert cache._table.num_words == 0
    assert_same(cache.encode_batch(texts), expected, texts)


def test_scripts_without_spaces_and_long_words_are_not_remembered(models: Callable) -> None:
    vocabulary = models("unigram")
    for texts in (["我是人的", "ไมาก", "のはをパー", "不了 一是"], ["x" * 49, "ab" * 200]):
        cache = WordCache(vocabulary)
        for _ in range(3):
            assert_same(cache.encode_batch(texts), vocabulary.encode_batch(texts), texts)
        assert cache._table.num_words == 0
    assert word_cache.NOT_KEPT.findall("äёאبक한ა") == []


def test_lone_surrogates_are_refused_as_sentencepiece_refuses_them(models: Callable) -> None:
    for encoder in (models("unigram"), WordCache(models("unigram"))):
        with pytest.raises((UnicodeEncodeError, TypeError)):
            encoder.encode_batch(["a \ud800"])
