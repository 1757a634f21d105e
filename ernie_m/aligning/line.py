"""The whole line in one folder, from pairs to a table; whatever is there already is not made again.

    OUT/align.json     what was asked              OUT/run            the training, as any other
    OUT/data           pairs as shards             OUT/model          the encoder, in its own class
    OUT/recipe.yaml    what is trained             OUT/before.json, after.json
    OUT/decided.json   why, and the share kept     OUT/table.txt      written last: the line is complete

Rank 0 alone prepares, exports and measures; all ranks train. The others wait for the recipe.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ernie_m.aligning import choices, inputs, measures, report
from ernie_m.aligning.speed import seconds_a_step
from ernie_m.base.config import build, differing_keys, merge_overrides, read_yaml
from ernie_m.base.console import Choice, InputError, duration
from ernie_m.base.files import read_json, remove, require_outside, write_json, written_atomically
from ernie_m.base.launchers import LAUNCHERS
from ernie_m.base.process_end import run_below
from ernie_m.base.rank_facts import RankFacts
from ernie_m.base.shipped import DS_CONFIGS, recipe_path
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.folder import CorpusFolder
from ernie_m.corpus.gold_sets import gold_paths, read_gold_sets
from ernie_m.corpus.manifest import MANIFEST_FILE
from ernie_m.interop.build_model import architecture_of, check_fits
from ernie_m.interop.model_card import CARD_FILE
from ernie_m.interop.start import check_starts, starts_of
from ernie_m.interop.start_weights import Target
from ernie_m.runs.run_folder import RunFolder
from ernie_m.training.recipe import TrainingConfig, total_steps
from ernie_m.training.trainer import Trainer

ASKED_FILE, CATALOG_FILE, RECIPE_FILE, DECIDED_FILE = "align.json", "catalog.yaml", "recipe.yaml", "decided.json"
DATA, RUN, MODEL, TABLE_FILE = "data", "run", "model", "table.txt"
BEFORE_FILE, AFTER_FILE = "before.json", "after.json"
PATIENCE = 0.5  # seconds between two looks for what rank 0 makes

Export = Callable[[Path, Path, Path, float, bool], None]
"""(run, new folder, data, share of the start, whether a new head of masked words goes along) writes a run's encoder."""
LATER_OPTIONS = ("gold", "head")  # folders begun before these were options go on


@dataclass(frozen=True)
class Asked:
    """What the user asked for; `ernie_m.commands.align` explains it."""

    model: str
    pairs: str
    languages: str | None = None
    text: str | None = None
    watch: str | None = None
    held_out: float = 0.05
    passes: float = 2.0
    minutes: float | None = None
    keep: float | None = None
    recipe: str | None = None
    pooling: str | None = None
    overrides: tuple[str, ...] = ()
    gold: str | None = None
    head: bool = False


class Line:
    """All that one call of `align` does in the folder `out`."""

    def __init__(self, asked: Asked, out: Path, facts: RankFacts, export: Export) -> None:
        self.asked, self.out, self.facts, self.export = asked, out, facts, export
        self.given = inputs.data_folder(asked.pairs)
        self.data = self.given or out / DATA

    def run(self) -> None:
        """Go on where the last call stopped. Raises InputError for what is wrong, before anything is trained."""
        started, is_first = time.monotonic(), self.facts.rank == 0
        if is_first:
            self._prepare()
        if (self.out / TABLE_FILE).is_file():
            return
        while not (self.out / RECIPE_FILE).is_file():
            time.sleep(PATIENCE)
        recipe = self.out / RECIPE_FILE
        if not RunFolder(self.out / RUN).is_complete:
            config = build(TrainingConfig, read_yaml(recipe), str(recipe))
            Trainer(config, self.data, self.out / RUN, DS_CONFIGS).run()
        if is_first:
            self._finish()
            print(f"\nthe encoder: {self.out / MODEL}; in {duration(time.monotonic() - started)}", flush=True)

    @cached_property
    def encoder(self) -> choices.Encoder:
        return choices.look_at(self.asked.model, self.asked.pooling)

    @cached_property
    def recipe(self) -> Choice:
        has_text = bool(self.corpus.monolingual()) if self.given else bool(self.asked.text)
        return choices.recipe_for(self.encoder, self.asked.recipe, has_text)

    @cached_property
    def corpus(self) -> CorpusFolder:
        return CorpusFolder(self.data)

    # -- before training -----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Check what can be checked, then make data and recipe."""
        read = {"--model": self.asked.model, "--pairs": self.asked.pairs, "--watch": self.asked.watch}
        require_outside("--to", self.out, read)
        catalog = self._catalog()
        if self.asked.watch:
            measures.watched_files(Path(self.asked.watch))
        if self.asked.recipe:
            recipe_path(self.asked.recipe)
        merge_overrides({}, self.asked.overrides)
        read_gold_sets(gold_paths(self.asked.gold))
        is_complete = self._claim(write=False)
        if is_complete:
            print(f"{(self.out / TABLE_FILE).read_text(encoding='utf-8')}\n{self.out}: complete, nothing to do")
            return
        tokenizer = open_vocabulary(self.encoder.folder)
        choices.check_masks(self.recipe.value, self.asked.overrides, tokenizer.specials)
        self._claim(write=True)
        if catalog and not (self.data / MANIFEST_FILE).is_file():
            self._build(catalog, self.encoder.folder)
        if not (self.out / RECIPE_FILE).is_file():
            self._decide()
        print(*self._decided["said"], sep="\n", flush=True)

    def _catalog(self) -> dict[str, Any] | None:
        """None where the data is there."""
        asked = self.asked
        languages = None if asked.languages is None else inputs.languages_of(asked.languages)
        if self.given:
            if asked.text:
                raise InputError(f"--text {asked.text}: --pairs is a data_prep folder; put the text into its catalog")
            there = {"-".join(stream.languages): {*stream.languages} for stream in self.corpus.parallel()}
            if languages and {*languages} not in there.values():
                raise InputError(
                    f"--languages {asked.languages}: {asked.pairs} has pairs of {', '.join(there)}; leave it out"
                )
            return None
        return inputs.catalog_of(asked.pairs, asked.text, languages, asked.held_out)

    def _claim(self, write: bool) -> bool:
        """Whether OUT is complete. Raises InputError when it is not ours, or was begun by another command.

        Until the recipe is written, the options may change: then the data is built anew. `write`: make it ours.
        """
        given = {**vars(self.asked), "overrides": list(self.asked.overrides)}
        path, asked = self.out / ASKED_FILE, {key: v for key, v in given.items() if v or key not in LATER_OPTIONS}
        differences: list[str] = []
        if path.is_file():
            differences = differing_keys(read_json(path), asked)
        elif self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise InputError(f"--to {self.out}: not made by align (no {ASKED_FILE} there); give a new folder")
        if differences and (self.out / RECIPE_FILE).is_file():
            what = "; ".join(differences)
            raise InputError(f"--to {self.out}: begun with other options ({what}); give these again, or a new folder")
        if write and (differences or not path.is_file()):
            self.out.mkdir(parents=True, exist_ok=True)
            remove(self.out / DATA)
            write_json(path, asked)
        return (self.out / TABLE_FILE).is_file()

    def _build(self, catalog: dict[str, Any], tokenizer: Path) -> None:
        """OUT/data by data_prep, in a process of its own: it resumes by itself, and says itself what is wrong."""
        self._write_yaml(CATALOG_FILE, catalog)
        options = ["--catalog", self.out / CATALOG_FILE, "--tokenizer", tokenizer, "--out", self.data]
        of_launchers = {name for of in LAUNCHERS for name in (of.rank, *of.world_size, *of.local_rank, *of.local_world_size)}
        alone = {name: value for name, value in os.environ.items() if name not in of_launchers}
        command = [sys.executable, "-m", "data_prep", "build", *map(str, options)]
        if code := run_below(command, alone):
            raise SystemExit(code)

    def _decide(self) -> None:
        """Write the recipe, and why it is as it is."""
        asked, corpus = self.asked, self.corpus
        of_sides = choices.of_sides(measures.shared_words(self._held_out(), open_vocabulary(corpus.tokenizer_path)))
        recipe = self.recipe
        content, said = choices.filled(self.encoder, recipe.value, corpus, asked.overrides, self.facts.world_size)
        if any(given.startswith("stages=") for given in asked.overrides):
            steps = Choice("steps", f"{total_steps(content)}", "stages are given")
        else:
            of_a_step = choices.passes_of_a_step(content, corpus)
            content, steps = choices.timed(content, of_a_step, asked.passes, asked.minutes, lambda: self._timed(content))
        content, keep = choices.closed(content), choices.keep_of(content, asked.keep)
        self._check(build(TrainingConfig, content, recipe.value))  # refused before it is written
        decided = {"said": [str(choice) for choice in (recipe, *said, steps, keep, *of_sides)], "keep": float(keep.value)}
        write_json(self.out / DECIDED_FILE, decided)
        self._write_yaml(RECIPE_FILE, content)

    def _held_out(self) -> dict[str, list[measures.Pair]]:
        """Raises InputError where nothing is: there would be no table."""
        if sets := measures.held_out_sets(self.corpus):
            return sets
        rows = sum(stream.num_rows for stream in self.corpus.parallel())
        raise InputError(
            f"{self.data}: of {rows:,} pairs none is held out to be measured on; expected more pairs or a greater "
            f"{'held_out in the catalog' if self.given else '--held_out'}"
        )

    def _check(self, config: TrainingConfig) -> None:
        """Raise InputError if the data is not of the encoder's tokenizer, or has too long documents for it, or if a new
        head is to be exported and cannot be."""
        manifest = self.corpus.manifest
        architecture = architecture_of(config.shape, manifest.specials, len(manifest.languages))
        target = Target.of(architecture.config, self.data, manifest)
        check_fits(architecture, config.data, target)
        check_starts(starts_of(vars(config)), target)
        if self.asked.head:
            architecture.check_head()

    def _timed(self, content: dict[str, Any]) -> float:
        config = build(TrainingConfig, choices.closed(content), "the recipe")
        return seconds_a_step(config, self.data, self.facts.rank, self.facts.world_size)

    def _write_yaml(self, name: str, content: dict[str, Any]) -> None:
        with written_atomically(self.out / name) as aside:
            aside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    @cached_property
    def _decided(self) -> dict[str, Any]:
        return dict(read_json(self.out / DECIDED_FILE))

    # -- behind training -----------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Export, measure, and tell."""
        model = self.out / MODEL
        if not model.is_dir():
            self.export(self.out / RUN, model, self.data, self._decided["keep"], self.asked.head)
        before = self._measured(BEFORE_FILE, self.asked.model, "before")
        after = self._measured(AFTER_FILE, str(model), "after")
        pooling = self.encoder.pooling.value
        card = (model / CARD_FILE).read_text(encoding="utf-8").partition(report.HEADING)[0].rstrip()
        section = report.for_card(before, after, pooling, self._decided["said"])
        shown = report.for_terminal(before, after, pooling)
        for path, text in ((model / CARD_FILE, f"{card}\n\n{section}"), (self.out / TABLE_FILE, shown)):
            with written_atomically(path) as aside:
                aside.write_text(f"{text}\n", encoding="utf-8")
        print(f"\n{shown}", flush=True)

    def _measured(self, name: str, model: str, note: str) -> dict[str, Any]:
        """The figures of one encoder; those that are there are not taken again."""
        path = self.out / name
        if not path.is_file():
            watched: dict[str, list[measures.Pair]] = {}
            if self.asked.watch:
                watched = measures.watched_sets(Path(self.asked.watch), open_vocabulary(self.corpus.tokenizer_path))
            sets = {"held_out": self._held_out(), "watched": watched}
            longest = self.encoder.longest_document
            figures: dict[str, Any] = {
                kind: measures.retrieval(model, of, self.corpus.manifest.specials, self.encoder.pools, longest, note)
                for kind, of in sets.items()
            }
            gold = read_gold_sets(gold_paths(self.asked.gold))
            figures["links"] = measures.links(model, gold, note)
            write_json(path, figures | {"gain": measures.gain(model, self.corpus, longest)})
        return dict(read_json(path))
