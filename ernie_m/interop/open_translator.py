"""Opens a model that translates: a run of ours, or a Hugging Face folder of an encoder-decoder of XLM-R's classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.run_files import CONFIG_FILE as RUN_CONFIG_FILE
from ernie_m.base.run_files import DATA_IDENTITY
from ernie_m.corpus.any_vocabulary import AnyVocabulary, open_vocabulary
from ernie_m.interop.build_model import any_translator_of
from ernie_m.interop.translation_folder import read_folder
from ernie_m.models.decoding import Translates
from ernie_m.models.shape import longest_document
from ernie_m.runs.data_identity import tokenizer_of
from ernie_m.runs.run_folder import RunFolder
from ernie_m.translation.lines import NUM_SPECIAL


@dataclass(frozen=True)
class OpenTranslator:
    """A model that translates, on its device, with its vocabulary."""

    model: Translates
    vocabulary: AnyVocabulary
    positions: int
    """That it has for a sentence, special tokens included."""
    languages: tuple[str, ...] = ()
    """Of a run, in order."""
    direction: tuple[str, str] | None = None
    """Of a folder that translates in one direction alone."""

    def numbers(self, source: str | None, target: str | None) -> tuple[int, int]:
        """What the model's embeddings call the languages.

        Raises InputError for languages that it has not, or if they are not given and it has several.
        """
        if not self.languages:
            for key, language, own in zip(("from", "to"), (source, target), self.direction or (None, None), strict=True):
                if None not in (language, own) and language != own:
                    raise InputError(f"--{key} {language}: the folder translates from {' to '.join(self.direction or ())}")
            return 0, 0
        shown = ", ".join(self.languages)
        for key, language in (("from", source), ("to", target)):
            if language is None:
                raise InputError(f"--{key} is missing: expected one of the model's languages: {shown}")
            if language not in self.languages:
                hint = nearest(language, self.languages) or ":"
                raise InputError(f"--{key} {language}{hint} expected one of the model's languages: {shown}")
        if source == target:
            raise InputError(f"--to {target}: the same as --from; expected another of {shown}")
        first, second = (1 + self.languages.index(str(language)) for language in (source, target))
        return first, second

    def checked_longest(self, longest: int | None) -> int | None:
        """`longest`, most tokens of a translation. Raises InputError for more than the model has positions for."""
        most = self.positions - NUM_SPECIAL
        if longest is not None and longest > most:
            raise InputError(f"--longest {longest}: the model has positions for {most} tokens; expected 1 .. {most}")
        return longest


def open_translator(name: str, data: str | None, checkpoint: str | None, device: torch.device) -> OpenTranslator:
    """A run of ours at a checkpoint (default: the newest), or a folder. `data`: the run's data folder, for its tokenizer.

    Raises InputError for what is neither, and for options that a folder has no use for.
    """
    path = Path(name).expanduser()
    if (path / RUN_CONFIG_FILE).is_file():
        configuration, chosen = RunFolder(path).read(checkpoint)
        vocabulary = open_vocabulary(tokenizer_of(configuration, Path(data) if data else None))
        model = any_translator_of(path, configuration, chosen, device)
        languages = tuple(configuration[DATA_IDENTITY]["languages"])
        return OpenTranslator(model, vocabulary, longest_document(model.config), languages)
    for key, value in (("data", data), ("checkpoint", checkpoint)):
        if value is not None:
            raise InputError(f"--{key} {value}: {name} is no run folder; leave it out")
    folder = read_folder(name, device)
    return OpenTranslator(folder.model, folder.vocabulary, longest_document(folder.model.config), (), folder.direction)
