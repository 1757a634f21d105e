"""Word links from states: mutual nearest neighbours, of whole words, whatever the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.commands.evaluate import Commands
from ernie_m.interop.encoder import open_encoder
from ernie_m.models.state_alignment import mutual_nearest, word_links, words_of_tokens
from tests.downstream_fixtures import tiny_encoder
from tests.tokenizer_fixtures import KINDS, sentences

__all__ = ["tiny_encoder"]


def test_mutual_nearest_states_are_those_of_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    for n, m in ((1, 1), (7, 5), (12, 30)):
        one, other = torch.randn(n, 16, generator=rng), torch.randn(m, 16, generator=rng)

        def cosine(i: int, j: int, one: torch.Tensor = one, other: torch.Tensor = other) -> float:
            return float(torch.nn.functional.cosine_similarity(one[i], other[j], dim=0))

        table = np.array([[cosine(i, j) for j in range(m)] for i in range(n)])
        expected = [
            (i, j) for i in range(n) for j in range(m) if table[i, j] == table[i].max() and table[i, j] == table[:, j].max()
        ]
        assert mutual_nearest(one, other) == expected
        assert expected
    assert mutual_nearest(torch.zeros(0, 4), torch.ones(2, 4)) == []


def test_words_are_linked_where_two_of_their_tokens_are() -> None:
    source = torch.eye(4)[[0, 1, 2]]  # of words 0 0 1
    target = torch.eye(4)[[2, 3, 1]]  # of words 0 1 1
    assert word_links(source, [0, 0, 1], target, [0, 1, 1]) == {(0, 1), (1, 0)}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_token_knows_its_word(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    lines = [line for code in ("en", "de", "zh") for line in sentences(code)]
    tokenizer = AutoTokenizer.from_pretrained(KINDS[kind](lines, tmp_path / "tokenizer"))
    for line in lines[::29]:
        words = line.split()
        encoded = tokenizer(" ".join(words), return_offsets_mapping=True)
        numbers = words_of_tokens(words, encoded["offset_mapping"])
        assert sorted({*numbers} - {-1}) == list(range(len(words))), "each word has a token"
        assert [n for n in numbers if n >= 0] == sorted(n for n in numbers if n >= 0)
        assert numbers[0] == numbers[-1] == -1, "special tokens are of no word"


def write_gold(path: Path, form: str, sides: list[tuple[str, str]]) -> dict[str, str]:
    """Each word linked to the word at its place; the files for the command."""
    links = [" ".join(f"{i}-{i}" for i in range(len(one.split()))) for one, _ in sides]
    if form == "text":
        path.write_text("".join(f"{a} ||| {b} ||| {links[n]}\n" for n, (a, b) in enumerate(sides)), encoding="utf-8")
        return {"gold": str(path)}
    path.write_text("".join(f"{line}\n" for line in links))
    files = {name: path.with_name(name) for name in ("source", "target")}
    for file, side in zip(files.values(), zip(*sides, strict=True), strict=True):
        file.write_text("\n".join(side) + "\n", encoding="utf-8")
    return {"gold": str(path), **{name: str(file) for name, file in files.items()}}


@pytest.mark.parametrize("form", ["text", "pharaoh"])
def test_a_sentence_is_aligned_with_itself_in_every_layer(form: str, tiny_encoder: Path, tmp_path: Path) -> None:
    lines = ["two Mondays in April 2024", "der Tag", "an"]
    files = write_gold(tmp_path / "gold", form, [(line, line) for line in lines])
    Commands().alignment(model=str(tiny_encoder), **files, output=str(tmp_path / "out.json"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["pairs"] == 3
    for name in ("trained", "untrained"):
        assert [content[name][str(k)]["aer"] for k in range(3)] == [0, 0, 0]
        assert content[name]["1"]["found"] == 8


def test_gold_without_sure_links_has_no_recall_which_is_told(
    tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gold").write_text("two days ||| two days ||| 0p0 1p1\n", encoding="utf-8")
    Commands().alignment(model=str(tiny_encoder), gold=str(tmp_path / "gold"), output=str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text())["trained"]["1"]["recall"] is None
    assert "note: the gold has no sure links, so no recall" in capsys.readouterr().out


def test_words_behind_the_greatest_length_have_no_link(tiny_encoder: Path, tmp_path: Path) -> None:
    line = " ".join(f"{number}" for number in range(300))
    files = write_gold(tmp_path / "gold", "text", [(line, line)])
    Commands().alignment(model=str(tiny_encoder), **files, layer=0, untrained=False, output=str(tmp_path / "out.json"))
    score = json.loads((tmp_path / "out.json").read_text())["trained"]["0"]
    assert open_encoder(tiny_encoder).tokenizer.model_max_length == 128
    assert 0.05 < score["recall"] < 0.45


def test_what_does_not_fit_is_refused_in_a_line(tiny_encoder: Path, tmp_path: Path) -> None:
    with_text = write_gold(tmp_path / "text", "text", [("a b", "c d")])
    alone = write_gold(tmp_path / "alone", "pharaoh", [("a b", "c d")])
    (tmp_path / "short").write_text("a\n")
    (tmp_path / "two").write_text("a b\nc d\n")
    for files, message in (
        ({**with_text, "source": alone["source"], "target": alone["target"]}, "has the sentences itself; leave both out"),
        ({"gold": alone["gold"]}, "has links alone; give the sentences with --source and --target"),
        ({**alone, "target": str(tmp_path / "short")}, "alone, pair 1: link 1-1, in sentences of 2 and 1 words"),
        ({**alone, "source": str(tmp_path / "two"), "target": str(tmp_path / "two")}, "links of 1 pairs, .* has 2 lines"),
        ({**with_text, "layer": True}, r"--layer True: expected 0 \.\. 2 or all"),
        ({**with_text, "layer": 3}, r"--layer 3: expected 0 \.\. 2 or all"),
    ):
        with pytest.raises(InputError, match=message):
            Commands().alignment(model=str(tiny_encoder), untrained=False, **files)
