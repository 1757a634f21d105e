"""Look at a run: one static HTML page with its curves, retrieval between languages, a map of sentences, and its rows.

    ernie-m show --run RUN --output report.html
    ernie-m show --run RUN --bitext tatoeba/ --output report.html

The page holds all that it shows (nothing is fetched): loss curves and scores; a heat map of retrieval, language by language;
the same sentences in all languages, and words that translate each other, before and after training; who reads whom in
packed rows of each objective; and what BTMLM writes behind a sentence. The same run, checkpoint and bitext give the same
bytes. A CPU is enough; the run may go on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range

NUM_SENTENCES = 1000
"""Lines of each bitext file that a page is made of, where nothing else is asked for."""


def show(
    *,
    run: str,
    output: str = "report.html",
    bitext: str | None = None,
    checkpoint: str | None = None,
    before: str = "start",
    step: Annotated[int, Range(least=0, most=10**9, zero="the first")] | None = None,
    layer: Annotated[int, Range(least=0, most=1000, zero="the middle one")] = 0,
    sentences: Annotated[int, Range(least=1, most=10**6)] | None = None,
    data: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write a page that shows a run.

    Args:
        run: run folder of a pre-training
        output: HTML file to write
        bitext: folder with sentences to retrieve: tatoeba.fra-eng.fra beside .eng, fr-en.fr beside .en, or one text in many
            languages (text.en, text.fr, text.sw; fra_Latn.devtest); without it retrieval and map are left out
        checkpoint: which one, e.g. step_00001000; default: the newest
        before: what to compare with: start, the run's own weights of step 0; a Hugging Face folder or hub id; or none
        step: rows of which step to draw, from 0; default: the last that the checkpoint was trained on
        layer: pool the states behind this layer, from 1; 0 takes the middle one
        sentences: lines of each bitext file to use at most; default: 1000
        data: the run's data folder, if it lies elsewhere now
        trust_remote_code: run the Python code that the folder of --before brings; without it such a folder is refused
    """
    import importlib.util

    target, scratch = Path(output), Path(output).resolve().parent
    if target.is_dir() or not scratch.is_dir():
        raise InputError(f"--output {output}: expected an HTML file to write, in a folder that exists")
    if sentences is not None and bitext is None:
        raise InputError(f"--sentences {sentences}: expected with --bitext alone")
    needed = ("jinja2", "sklearn") if bitext else ("jinja2",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} is not installed; a page needs the packages of: pip install -e '.[show]'")

    from ernie_m.base.files import written_atomically
    from ernie_m.base.process_end import clean_end
    from ernie_m.show.bitext_folder import read_bitext
    from ernie_m.show.opened import open_run
    from ernie_m.show.report import PageOptions, check_same_run, page

    check_same_run(target, Path(run))
    opened = open_run(Path(run), Path(data) if data else None, checkpoint)
    step = max(0, opened.checkpoint.step - 1) if step is None else step
    if step >= opened.data.schedule.num_steps:
        raise InputError(f"--step {step}: expected 0 .. {opened.data.schedule.num_steps - 1}, the steps of {run}")
    num_layers = opened.shape.num_layers
    if layer > num_layers:
        raise InputError(f"--layer {layer}: expected 1 .. {num_layers}, or 0 for the middle one")
    pairs = read_bitext(Path(bitext), opened.language_ids, sentences or NUM_SENTENCES) if bitext else None
    compared = _before(before, trust_remote_code)
    with clean_end, tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=scratch) as folder:
        content = page(opened, PageOptions(pairs, compared, step, layer), Path(folder))
    with written_atomically(target) as aside:
        aside.write_text(content, encoding="utf-8")
    print(f"written: {target} ({len(content.encode()) / 1e6:.1f} MB)")


def _before(name: str, trust_remote_code: bool) -> Any:
    """`start`, `none` or an encoder."""
    if name in ("start", "none"):
        return name
    from ernie_m.interop.encoder import open_encoder

    try:
        return open_encoder(name, trust_remote_code)
    except InputError as error:
        raise InputError(f"--before {name}: expected start, none, or a Hugging Face folder or hub id: {error}") from None


def main(called: str = "ernie-m show") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(show, called)


if __name__ == "__main__":
    main()
