"""No command that writes a folder writes it into one that it reads, and none has written anything when it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.base.console import InputError
from ernie_m.commands.ablate import Commands as Ablate
from ernie_m.commands.align import align
from ernie_m.commands.finetune import Commands as Finetune
from ernie_m.commands.translate import translate
from ernie_m.commands.vocabulary import vocabulary

Write = Callable[[str, str, str], None]
"""A folder that is read; another one; the folder to write."""
WRITERS: dict[str, Write] = {
    "vocabulary --model": lambda read, other, to: vocabulary(model=read, to=to, trim=f"{other}/text"),
    "align --model": lambda read, other, to: align(model=read, pairs=f"{other}/text", languages="de,en", to=to),
    "align --watch": lambda read, other, to: align(model=other, pairs=f"{other}/text", languages="de,en", watch=read, to=to),
    "finetune --model": lambda read, other, to: Finetune().xnli(model=read, data=other, to=to),
    "finetune --data": lambda read, other, to: Finetune().ner(model=other, data=read, to=to, check=True),
    "tatoeba --data": lambda read, other, to: Finetune().tatoeba(model=other, data=read, to=to),
    "tatoeba --model": lambda read, other, to: Finetune().tatoeba(model=read, data=other, to=to, setting="hardest-negative"),
    "ablate --data": lambda read, other, to: Ablate().objectives(data=read, to=to),
    "ablate --held_out": lambda read, other, to: Ablate().scratch(data=other, held_out=read, to=to),
    "ablate --tatoeba": lambda read, other, to: Ablate().alignlm(data=other, tatoeba=read, to=to),
    "ablate --finetune xnli": lambda read, other, to: Ablate().pseudo_share(data=other, finetune=f"xnli={read}", to=to),
    "ablate --source": lambda read, other, to: Ablate().learning(source=read, to=to),
    "ablate --finished": lambda read, other, to: Ablate().transfer(finished=read, to=to),
    "ablate --clm": lambda read, other, to: Ablate().translation(data=other, test=f"{other}/text", clm=read, to=to),
}


def test_a_translation_does_not_take_the_place_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("ja\n")
    with pytest.raises(InputError, match=r"--output \S+: is --input itself, which would be lost"):
        translate(model="m", input=str(tmp_path / "in"), output=f"{tmp_path}/./in", overwrite=True)
    assert (tmp_path / "in").read_text() == "ja\n"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_command_does_not_write_into_what_it_reads(name: str, below: str, tmp_path: Path) -> None:
    read, other = tmp_path / "read", tmp_path / "other"
    for folder in (read, read / "eval" / "tatoeba", read / "eval" / "heldout", other):
        folder.mkdir(parents=True)
        (folder / "text").write_text("ja\tyes\n")
    before = sorted(tmp_path.rglob("*"))
    option = name.partition(" ")[2]
    with pytest.raises(InputError, match=rf"--to \S+: \S+( in)? {option} {read}, which is read; give a folder outside"):
        WRITERS[name](str(read), str(other), str(read / below))
    assert sorted(tmp_path.rglob("*")) == before
