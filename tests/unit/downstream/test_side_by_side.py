"""Encoders side by side: means over what all have, spreads as they were, and what is not comparable is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ernie_m.base.console import InputError
from ernie_m.commands.compare import compare
from ernie_m.downstream.report import as_json, summarise
from ernie_m.downstream.side_by_side import read_column
from tests.unit.downstream.test_report import RESULTS


def written(folder: Path, name: str, drop: str = "", sha256: str = "0", rate: float = 1e-5, **changes: Any) -> Path:
    """A folder as `finetune` leaves it."""
    results = [{**result, "test": {k: v for k, v in result["test"].items() if k != drop}} for result in RESULTS]
    summary = as_json(summarise(results, ("accuracy", "em"), 33.0, 100), None)
    content = {"task": "xnli", "setting": "transfer", "encoder": f"/x/{name}", "protocol": "p", "seeds": results, **summary}
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(json.dumps(content | changes), encoding="utf-8")
    files = {part: {f"{part}-en.tsv": {"sha256": [sha256]}} for part in ("train", "validation", "test")}
    settings = {"data": files, "hyperparameters": {"learning_rate": rate, "epochs": 3}}
    (folder / name / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder / name


def test_means_are_over_the_languages_that_all_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [written(tmp_path, "a"), written(tmp_path, "b", drop="fr")]
    compare(*map(str, folders), json=str(tmp_path / "c.json"), plot=str(tmp_path / "c.png"))
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert content["common_languages"] == ["en", "de"]
    en, de = (80 + 82 + 50) / 3, (70 + 75 + 40) / 3
    assert [column["mean"] for column in content["columns"]] == pytest.approx([(en + de) / 2] * 2)
    assert [column["gap"] for column in content["columns"]] == pytest.approx([en - de] * 2)
    shown = capsys.readouterr().out
    assert "57.67 ± 23.97" in shown
    assert "57.67 ± 24" not in shown.replace("23.97", "")
    row = next(line for line in shown.splitlines() if line.startswith("fr"))
    assert row.split()[-1] == "-"
    assert content["remarks"] == []
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_comparable_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        written(tmp_path, "a"),
        written(tmp_path, "b", sha256="1", rate=2e-5, setting="translate-train-all", seeds=[]),
    ]
    compare(*map(str, folders))
    shown = capsys.readouterr().out
    assert "not the same setting: transfer | translate-train-all" in shown
    for part in ("training", "validation", "test"):
        assert f"not the same {part} files: differences may come from that" in shown
    assert "not the same hyperparameters: learning_rate 1e-05 | 2e-05: differences may come from that" in shown
    assert "epochs" not in shown
    assert "one seed, or none: b;" in shown


def test_zero_shot_retrieval_is_a_column_of_its_chosen_layer(tmp_path: Path) -> None:
    languages = {"de": {"pairs": 3, "trained": {"to_english": [1.0, 50.0, 3.0], "from_english": [0.0, 0.0, 0.0]}}}
    content = {
        "task": "tatoeba",
        "setting": "zero-shot",
        "encoder": "x/m",
        "layer": 1,
        "languages": languages,
        "protocol": "p",
    }
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_column(tmp_path).languages["de"].mean == 50.0


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"task": "pawsx"}, r"expected results of one task"),
        ({"languages": {"sw": {"accuracy": {"mean": 1.0, "sd": None}}}}, r"no language is in all of them"),
        ({"languages": 3}, r"b.results.json: not a results.json of `finetune`"),
        ({"paper": "none"}, r"b.results.json: not a results.json of `finetune`"),
        ({"languages": {"en": {"accuracy": {"mean": "80", "sd": None}}}}, r"the score in en is no number"),
        *(
            ({"languages": {"en": {"accuracy": {"mean": mean, "sd": sd}}}}, r"the score in en is no number from 0 to 100")
            for mean, sd in [(True, None), (float("nan"), None), (-3.0, None), (10**400, None), (80.0, -1.0), (80.0, 1e400)]
        ),
        ({"languages": {"en\x1b[2J": {"accuracy": {"mean": 1.0, "sd": None}}}}, r"\\x1b\[2J is no language"),
        ({"encoder": None}, r"b.results.json: not a results.json of `finetune`"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(second: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folders = [written(tmp_path, "a"), written(tmp_path, "b", **second)]
    with pytest.raises(InputError, match=expected):
        compare(*map(str, folders))


def test_no_file_that_is_compared_and_no_folder_is_written_over(tmp_path: Path) -> None:
    a, b = written(tmp_path, "a"), written(tmp_path, "b")
    before = (b / "results.json").read_bytes()
    for option, path in (("plot", b / "results.json"), ("json", tmp_path / "a" / ".." / "b" / "results.json")):
        with pytest.raises(InputError, match=rf"--{option} \S*results.json: is compared itself, and would be lost"):
            compare(str(a), str(b), overwrite=True, **{option: str(path)})
    assert (b / "results.json").read_bytes() == before
    with pytest.raises(InputError, match=r"--json \S*a: a folder; expected the name of a file to write"):
        compare(str(a), str(b), overwrite=True, json=str(a))
    with pytest.raises(InputError, match=r"give two files"):
        compare(str(a), str(b), json=f"{tmp_path}/c", plot=f"{tmp_path}/a/../c")


def test_what_a_strangers_results_say_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(tmp_path, "a"), written(tmp_path, "b", encoder="x/b\x1b[2J\n\nnew", setting="\x1b[31m")
    compare(str(a), str(b))
    shown = capsys.readouterr().out
    assert "b\\x1b[2J new" in shown
    assert "\x1b" not in shown


def test_results_of_levels_without_end_are_refused(tmp_path: Path) -> None:
    a, b = written(tmp_path, "a"), written(tmp_path, "b")
    (b / "results.json").write_text("[" * 10**5)
    with pytest.raises(InputError, match=r"b.results.json: not a results.json of `finetune` \(RecursionError"):
        compare(str(a), str(b))


def test_one_result_or_none_or_a_file_that_is_there_is_refused(tmp_path: Path) -> None:
    a, b = str(written(tmp_path, "a")), str(written(tmp_path, "b"))
    with pytest.raises(InputError, match=r"expected two or more"):
        compare(a)
    with pytest.raises(InputError, match=r"no such file; expected the results.json of `finetune`"):
        compare(a, str(tmp_path / "none"))
    (tmp_path / "there.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"there.png: exists and stays"):
        compare(a, b, plot=str(tmp_path / "there.png"))
    with pytest.raises(InputError, match=r"--plot \S*new/c.png: the folder \S*new does not exist"):
        compare(a, b, plot=str(tmp_path / "new" / "c.png"))
    with pytest.raises(InputError, match=r"--plot and --json: both \S*c; give two files"):
        compare(a, b, plot=str(tmp_path / "c"), json=str(tmp_path / "c"))
    (tmp_path / "b" / "results.json").write_text('{"task": "xnli", "not_scored": ["de"]}')
    with pytest.raises(InputError, match=r"b.results.json: predictions alone, no scores"):
        compare(a, b)
