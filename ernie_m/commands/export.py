"""Export a checkpoint of a run, by default its newest, for Hugging Face.

    ernie-m export --run RUN --to FOLDER
    ernie-m export --run RUN --to FOLDER --format ernie_m
    ernie-m export --run RUN --to FOLDER --keep 0.3
    ernie-m export --run RUN --to FOLDER --head
    ernie-m export --run RUN --to FOLDER --language de
    ernie-m export --run RUN --to FOLDER --direction fr-en

FOLDER then loads with AutoModel, AutoModelForMaskedLM and AutoTokenizer (XLM-R's class; safetensors), and with
SentenceTransformer, or, as ernie_m, with the AutoModel of transformers up to 4.57. A model that translates loads with
AutoModelForSeq2SeqLM. README.md there says how it was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.files import folder_written_atomically, require_new_folder, require_outside
from ernie_m.base.ranges import Range
from ernie_m.base.run_files import DATA_IDENTITY

if TYPE_CHECKING:
    from ernie_m.runs.checkpoint import Checkpoint


def export(
    *,
    run: str,
    to: str,
    data: str | None = None,
    format: str | None = None,
    checkpoint: str | None = None,
    keep: Annotated[float, Range(least=0, most=1, zero="the trained weights")] = 0.0,
    language: str | None = None,
    direction: str | None = None,
    head: bool = False,
) -> None:
    """Write the weights of a pre-training run as a Hugging Face folder.

    Args:
        run: run folder of a pre-training
        to: folder to make; must not exist or be empty
        data: data folder, for its tokenizer; default: the one the run was started on
        format: xlm-roberta, a class that all releases of transformers have (the default), or ernie_m, that of the released
            weights, which lacks a head for masked language modelling; an encoder of transformers (model.backbone) stays
            what it is
        checkpoint: which one, e.g. step_00001000, 1000 or best; default: the newest
        language: of a run with model.language_embedding=all, read every text as of this language; default: the folder's
            model takes each token's as token_type_ids (README.md there has their numbers)
        direction: of a run whose model translates, from which language to which, e.g. fr-en
        head: also write the head of masked words that training added to an encoder which came without one (model.backbone):
            the folder then has the class that holds it, such as BertForMaskedLM; a head that came with it, and our own
            encoder's, is always written
        keep: share of the weights that the run started from (init_from, model.backbone): 0.3 writes 0.3 of them and 0.7 of
            the trained ones
    """
    from ernie_m.base.command_line import nearest
    from ernie_m.interop.averaging import averaged
    from ernie_m.interop.build_model import architecture_of_run, load_weights
    from ernie_m.interop.export import FORMATS, export_model
    from ernie_m.interop.model_card import CARD_FILE, model_card
    from ernie_m.interop.start import weights_of_start
    from ernie_m.interop.weight_files import read_config
    from ernie_m.runs.data_identity import tokenizer_of
    from ernie_m.runs.run_folder import RunFolder, model_config

    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format}{nearest(format, FORMATS) or ':'} expected {' or '.join(FORMATS)}")
    target = Path(to)
    require_new_folder("--to", target)
    configuration, chosen = RunFolder(Path(run)).read(checkpoint)
    tokenizer = tokenizer_of(configuration, Path(data) if data else None)
    require_outside("--to", target, {"--run": run, "the run's data": tokenizer.parent})
    languages = configuration[DATA_IDENTITY]["languages"]
    if model_config(configuration).translates:
        given = {"format": format, "language": language, "keep": keep or None, "head": head or None}
        for key in (key for key, value in given.items() if value is not None):
            raise InputError(f"--{key} {given[key]}: the run's model translates, and has none; leave it out")
        return _export_translation(Path(run), configuration, chosen, tokenizer, target, direction)
    if direction is not None:
        raise InputError(f"--direction {direction}: the run's model does not translate; leave it out")
    weights = load_weights(Path(run), configuration, chosen)
    architecture = architecture_of_run(Path(run), configuration)
    if keep:
        start, started = weights_of_start(Path(run), configuration, tokenizer.parent)
        weights = averaged(weights, start, keep, started.fresh)
    with folder_written_atomically(target) as aside:
        export_model(architecture, weights, tokenizer, aside, format, languages, language, head)
        written = read_config(aside)
        kind, has_head = str(written["model_type"]), "MaskedLM" in str(written["architectures"])
        card = model_card(Path(run), configuration, chosen, tokenizer.parent, kind, keep, language, has_head)
        (aside / CARD_FILE).write_text(card, encoding="utf-8")
    if head and architecture.has_own_head:
        print("note: --head adds nothing here; the encoder's own head of masked words is always written")
    with_start = f", {keep:g} of the start kept" if keep else ""
    return print(f"exported step {chosen.step} of {run} to {target} ({kind}{with_start})")


def _export_translation(
    run: Path, configuration: dict[str, Any], chosen: Checkpoint, tokenizer: Path, target: Path, direction: str | None
) -> None:
    """The same for a run whose model translates, in one direction."""
    import torch

    from ernie_m.interop.build_model import translator_of
    from ernie_m.interop.model_card import CARD_FILE, translation_card
    from ernie_m.interop.translation_folder import direction_of, export_translation

    languages = configuration[DATA_IDENTITY]["languages"]
    sides = direction_of(direction, languages)
    model = translator_of(Path(run), configuration, chosen, torch.device("cpu"))
    with folder_written_atomically(target) as aside:
        export_translation(model, languages, sides, tokenizer, aside)
        card = translation_card(run, configuration, chosen, tokenizer.parent, sides)
        (aside / CARD_FILE).write_text(card, encoding="utf-8")
    print(f"exported step {chosen.step} of {run} to {target} (encoder-decoder, {' to '.join(sides)})")


def main(called: str = "ernie-m export") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    run_command(export, called)


if __name__ == "__main__":
    main()
