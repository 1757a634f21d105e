"""Give a Hugging Face encoder another vocabulary: pieces for a language, and none that no corpus uses.

    ernie-m vocabulary --model HUB_OR_FOLDER --to OUT --trim en.txt,de.txt
    ernie-m vocabulary --model HUB_OR_FOLDER --to OUT --extend 2000 --text br.txt --unchanged en.txt,fr.txt
    ernie-m vocabulary --model HUB_OR_FOLDER --to OUT --extend 2000 --text br.txt --trim en.txt,fr.txt

OUT is a folder of the same class, with the tokenizer changed; vocabulary.json there says what was changed and measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import listed
from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.corpus.joins import EXTEND


def vocabulary(
    *,
    model: str,
    to: str,
    trim: str | None = None,
    extend: Annotated[int, EXTEND] = 0,
    text: str | None = None,
    unchanged: str | None = None,
) -> None:
    """Learn pieces for a language, take out those that no corpus uses, and write the encoder with the rest.

    A new piece joins old ones, so text is cut at fewer places, and at no new ones. Its row starts as the mean of the rows
    of the pieces that it joins. Train the encoder on text of the language afterwards, as with `ernie-m pretrain`.

    Args:
        model: folder or hub id of a Hugging Face encoder
        to: folder to make; must not exist
        trim: corpora whose pieces are kept, files with commas between them, a text a line, .gz and .xz too; without it
            nothing is taken out
        extend: how many pieces to learn from --text, at most
        text: text of the new language, files with commas between them
        unchanged: with --extend, text of old languages, files with commas between them: pieces that would change it are
            not learned; default: the files of --trim that are not files of --text
    """
    from ernie_m.base.files import require_outside
    from ernie_m.corpus.texts import Text
    from ernie_m.interop.new_vocabulary import adapt_vocabulary

    def texts(option: str, files: str | None) -> list[Text]:
        paths = [Path(name) for name in listed(option, files, "a file, or several with commas between")]
        for path in paths:
            if not path.is_file():
                raise InputError(f"--{option} {path}: no such file; expected text, one a line")
        return [Text.of_file(path) for path in paths]

    require_outside("--to", Path(to), {"--model": model})
    report = adapt_vocabulary(
        model,
        Path(to),
        trim=texts("trim", trim),
        extend=extend,
        text=texts("text", text),
        unchanged=texts("unchanged", unchanged) if unchanged is not None else None,
    )
    for line in report.lines():
        print(line)
    print(f"written to {to}")


def main(called: str = "ernie-m vocabulary") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(vocabulary, called)


if __name__ == "__main__":
    main()
