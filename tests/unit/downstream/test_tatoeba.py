"""The sweep over layers finds what a plain numpy script finds, on the real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.downstream import tatoeba
from tests.downstream_fixtures import plain_accuracies


def test_the_sweep_is_that_of_a_plain_numpy_script(
    tiny_encoder: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    languages = {"swh": 390, "tha": 60}  # the first is the whole set
    for language, count in languages.items():
        for name in (language, "eng"):
            file = f"tatoeba.{language}-eng.{name}"
            lines = (real_data / "tatoeba" / file).read_bytes().split(b"\n")
            (tmp_path / file).write_bytes(b"\n".join(lines[:count]) + b"\n")
    content = tatoeba.run(tiny_encoder, tmp_path, tmp_path / "to")
    expected = {language: plain_accuracies(tiny_encoder, tmp_path, language) for language in languages}
    for language in languages:
        found = content["languages"][language]["trained"]
        assert np.allclose([found["to_english"], found["from_english"]], expected[language], atol=1e-4)
    assert {k: of["pairs"] for k, of in content["languages"].items()} == languages
    means = np.mean([expected[language][0] for language in languages], axis=0)
    assert content["layer"] == 2
    assert content["average"]["trained"] == pytest.approx(means[2], abs=1e-4)
    assert content["best_layer_on_test"]["layer"] == means.argmax()
    assert json.loads((tmp_path / "to/results.json").read_text())["average"] == content["average"]
    assert (tmp_path / "to/scores.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert f"{content['average']['trained']:.1f}" in shown
    assert "protocol: accuracy@1" in shown


@pytest.mark.parametrize(
    ("files", "layer", "expected"),
    [
        ({}, 0, "no retrieval files; expected tatoeba.{language}-eng.{language}"),
        ({"tatoeba.fra-eng.fra": "a\n"}, 0, "tatoeba.fra-eng.eng: no such file"),
        ({"tatoeba.fra-eng.fra": "a\nb\n", "tatoeba.fra-eng.eng": "a\n"}, 0, "has 2 lines,"),
        ({"tatoeba.fra-eng.fra": "a\n", "tatoeba.fra-eng.eng": "a\n"}, 3, "layer: 3; expected 1 .. 2"),
    ],
)
def test_files_and_layers_that_do_not_fit_are_refused(
    files: dict[str, str], layer: int, expected: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        tatoeba.run(tiny_encoder, tmp_path, tmp_path / "to", layer)
    assert expected in str(caught.value)
    assert not (tmp_path / "to").exists()
