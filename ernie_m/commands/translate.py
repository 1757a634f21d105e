"""Translate text, a line a sentence, with a run that was trained to.

    ernie-m translate --run RUN --direction fr-en < in.fr > out.en
    ernie-m translate --run RUN --direction fr-en --input in.fr --output out.en

Lines keep their order, and empty lines stay empty. Of a line that is longer than the model's positions the beginning is
translated, which is told. Greedy: the likeliest token, then the next.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range


def translate(
    *,
    run: str,
    direction: str,
    input: str | None = None,
    output: str | None = None,
    data: str | None = None,
    checkpoint: str | None = None,
    batch_tokens: Annotated[int, Range(least=1, most=2**24)] = 4096,
    overwrite: bool = False,
) -> None:
    """Translate lines of text with a run whose model has a decoder.

    Args:
        run: run folder of a training on MT, e.g. by recipe xlm_mt
        direction: from which language to which, e.g. fr-en
        input: file to translate; default: standard input
        output: file to write; default: standard output
        data: data folder, for its tokenizer; default: the one the run was started on
        checkpoint: which one, e.g. step_00001000, or 1000; default: the newest
        batch_tokens: tokens of the sentences that are translated together, padding included
        overwrite: replace an output that is already there
    """
    from ernie_m.base.files import refuse_existing, written_atomically
    from ernie_m.corpus.any_vocabulary import open_vocabulary
    from ernie_m.interop.build_model import translator_of
    from ernie_m.models.shape import longest_document
    from ernie_m.runs.ranks import this_device
    from ernie_m.runs.run_folder import RunFolder, tokenizer_of
    from ernie_m.translation.lines import Translator, language_numbers

    if output is not None:
        refuse_existing("--output", Path(output), overwrite=overwrite)
    if input is not None and not Path(input).is_file():
        raise InputError(f"--input {input}: no such file")
    configuration, chosen = RunFolder(Path(run)).read(checkpoint)
    languages = language_numbers(direction, configuration["data_identity"]["languages"])
    vocabulary = open_vocabulary(tokenizer_of(configuration, Path(data) if data else None))
    model = translator_of(configuration, chosen, this_device())
    translator = Translator(model, vocabulary, languages, longest_document(model.config), batch_tokens)
    lines = (Path(input).read_bytes() if input else sys.stdin.buffer.read()).decode("utf-8", "replace").splitlines()
    text = "".join(f"{line}\n" for line in translator.lines(lines))
    if output is None:
        sys.stdout.write(text)
        return
    with written_atomically(Path(output)) as aside:
        aside.write_text(text, encoding="utf-8")


def main(called: str = "ernie-m translate") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(translate, called)


if __name__ == "__main__":
    main()
