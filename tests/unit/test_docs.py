"""The pages keep their word: links and paths lead somewhere, and what "add …" pages show works as shown."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from data_prep import catalog, readers
from data_prep.catalog import Corpus, Format
from data_prep.readers import Reader, text_file
from data_prep.readers.lines import decode
from data_prep.records import Lines, no_count
from ernie_m.base.console import InputError
from ernie_m.commands.choice import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HELP = sorted([*ROOT.glob("ernie_m/commands/*.py"), *ROOT.glob("launcher/recipes/*.yaml"), *ROOT.glob("data_prep/**/*.py")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\(([^)#\s:]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PATH = re.compile(r"\b(?:ernie_m|data_prep|launcher|docs|benchmarks|tests|hostfiles|ds_configs)/[\w./-]*\w")
PROGRAM = re.compile(r"\bpython -m (?=data_prep )|\blauncher/(?=\w+\.py )|--module ernie_m\.commands\.|-- (?=pretrain )")
"""How a command may be called, beside `ernie-m`."""
COMMAND = re.compile(r"\bernie-m ([a-z][\w-]*)(?:\.py)?((?:(?! -- |\bernie-m )[^\n#`|;&])*)")
OPTION = re.compile(r"\s--(\w[\w-]*)")
QUOTED = re.compile(r"""(?<==)"[^"\n]*"|(?<= )"[^"\n]*\"""")
INVENTED = {"data_prep/readers/json_pairs.py", "ernie_m/downstream/paraphrase.py"}
"""Files that the pages tell a reader to write."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = {(page.parent / link).resolve() for link in LINK.findall(text) if not link.startswith(("http", "mailto:"))}
    dead = {str(target.relative_to(ROOT)) for target in targets if not target.exists()}
    assert not dead, f"links to {dead}"
    named = {path for path in PATH.findall(text) if Path(path).suffix in {".py", ".md", ".yaml", ".png"}}
    dead = {path for path in named if not (ROOT / path).exists()} - INVENTED
    assert not dead or page.name == "CHANGELOG.md", f"paths {dead}"


def anchors_of(page: Path) -> set[str]:
    """Those that the headings of a page have, as GitHub makes them."""
    headings = HEADING.findall(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_are_headings(page: Path) -> None:
    for link, anchor in ANCHOR.findall(page.read_text(encoding="utf-8")):
        assert anchor in anchors_of((page.parent / link).resolve() if link else page), f"{link}#{anchor}"


def unknown_options(text: str) -> list[str]:
    """Commands and options in a text that do not exist, among those that are called with any option."""
    found = []
    for name, rest in COMMAND.findall(PROGRAM.sub("ernie-m ", text.replace("\\\n", " "))):
        options = [option.replace("-", "_") for option in OPTION.findall(QUOTED.sub("", rest))]
        if not options:
            continue
        if name.replace("-", "_") not in COMMANDS:
            found.append(name)
            continue
        module = importlib.import_module(COMMANDS[name.replace("-", "_")].module)
        command = getattr(module, "Commands", None)
        if command is None:
            command = getattr(module, name.replace("-", "_"))
        elif not (word := rest.split()[0]).startswith("-"):
            command = getattr(command, word.replace("-", "_"), None)
        if command is None:
            found.append(f"{name} {rest.split()[0]}")
            continue
        known = {key.rstrip("_") for key in inspect.signature(command).parameters} | {"help"}
        found += [f"{name} --{option}" for option in options if not {option, option.removeprefix("no")} & known]
    return found


@pytest.mark.parametrize("page", [*PAGES, *HELP], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_take_the_options_that_pages_and_help_give_them(page: Path) -> None:
    assert page.name == "CHANGELOG.md" or not unknown_options(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m data_prep build --catalogue x",
        "python launcher/evaluate.py gain --model x",
        "deepspeed --num_gpus 8 --module ernie_m.commands.pretrain --recipe base --dta x",
        "ernie-m supervise --hostfile H -- pretrain --recipe large --hostfile H",
        "ernie-m ablate everything --data x",
        "ernie-m align --model x \\\n    --pair y",
    ],
)
def test_an_option_that_does_not_exist_is_seen(wrong: str) -> None:
    assert len(unknown_options(f"`{wrong}` and `ernie-m plan --recipe large`")) == 1


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))]
    lost = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page not in seen}
    assert not lost


def code_of(page: str, **names: Any) -> dict[str, Any]:
    """What the page's Python block defines, with the names it relies on."""
    (block,) = re.findall(r"^ *```python\n(.*?)^ *```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)
    exec(compile("from __future__ import annotations\n" + textwrap.dedent(block), page, "exec"), names)
    return names


def test_the_reader_of_the_page_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl = code_of("add_a_reader.md", json=json, np=np, Lines=Lines, decode=decode, lines_of=text_file.lines_of)["parse"]
    monkeypatch.setitem(catalog.FORMATS, "jsonl", Format(2))
    as_text = partial(text_file.chunks, at_empty_lines=False)
    monkeypatch.setitem(readers.READERS, "jsonl", Reader(as_text, jsonl, at_empty_lines=False))
    path = tmp_path / "pairs.jsonl"
    rows = [{"de": "eins", "en": "one"}, {"de": "zwei"}, [], {"en": "three", "de": "drei"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "broken\n", encoding="utf-8")
    corpus = Corpus("c", "jsonl", ("de", "en"), (path,))
    for chunk_bytes in (1 << 20, 30):
        read = [lines for chunk in readers.chunks(corpus, chunk_bytes, no_count) for lines in readers.parse(corpus, chunk)]
        kept = [
            (lines.texts[0][index], lines.texts[1][index])
            for lines in read
            for index in range(len(lines.numbers))
            if index not in lines.rejected
        ]
        assert kept == [("eins", "one"), ("drei", "three")]
        assert sum(len(lines.rejected) for lines in read) == 3


def test_the_task_of_the_page_reads_and_scores(tmp_path: Path) -> None:
    from ernie_m.downstream import classification, columns, task

    known = {**vars(classification), **vars(columns), **vars(task), "ClassVar": ClassVar, "Mapping": Mapping}
    paraphrase = code_of("add_a_task.md", **known)["Paraphrase"]()
    path = tmp_path / "test-de.tsv"
    path.write_text("a\tb\tyes\nc\td\tno\ne\tf\tno\n", encoding="utf-8")
    (pairs,) = paraphrase.read(path, "de").values()
    setup = task.Setup(None, paraphrase.defaults("transfer", "base"), paraphrase.labels(pairs), "transfer")
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert paraphrase.score(pairs, [], logits, setup, "de").metrics["accuracy"] == pytest.approx(200 / 3)
    path.write_text("a\tb\tmaybe\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: label 'maybe'"):
        paraphrase.read(path, "de")
