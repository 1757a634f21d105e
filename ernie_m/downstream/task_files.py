"""Which files are for training, validation and test: found in a data folder by their usual names, or named one by one.

Benchmarks come as published or in XTREME's layout; each task knows the names (`Task.patterns`). Where only dev files are at
hand, `from_dev` cuts them into three parts by a hash of the example's key, the same in every language.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.base.command_line import listed
from ernie_m.base.console import Choice, InputError, Progress
from ernie_m.base.language_codes import CODE
from ernie_m.downstream.announce import announce
from ernie_m.downstream.task import Part, Task

LANGUAGE = r"[A-Za-z]{2,3}(?:[_-][A-Za-z]{2,4})?"
PARTS: tuple[Part, ...] = ("train", "validation", "test")
DEV_SHARES = (0.6, 0.2, 0.2)  # of a dev file that is cut into PARTS


class SourceFile(NamedTuple):
    """A file and the language that its name says, None where it says nothing."""

    path: Path
    language: str | None


@dataclass(frozen=True)
class FileOptions:
    """Where the user says the files are; the named ones go before those found in `folder`."""

    folder: Path
    named: Mapping[Part, str]
    """Part -> comma-separated `[LANGUAGE=]PATH`, for parts that are named at all."""
    from_dev: bool = False


@dataclass(frozen=True)
class TaskData:
    """All examples of an experiment."""

    train: list[Any]
    validation: dict[str, list[Any]]
    test: dict[str, list[Any]]
    """What is scored, by language."""
    unlabelled: dict[str, list[Any]]
    """Test examples without labels by language: predicted and not scored."""
    num_train: dict[str, int]
    """Training examples by language."""
    files: dict[Part, list[SourceFile]]
    """The files they were read from."""

    @property
    def predicted(self) -> dict[str, list[Any]]:
        """All test examples by language, scored or not."""
        return dict(sorted({**self.test, **self.unlabelled}.items()))


def load(task: Task[Any], setting: str, options: FileOptions) -> TaskData:
    """Read what a setting needs. Raises InputError for missing files, languages or parts, and for broken content."""
    trained_on = task.settings[setting]
    if options.from_dev:
        files, parts = _cut_dev(task, options)
    else:
        files = {part: _files(task, options, part, trained_on if part != "test" else None) for part in PARTS}
        parts = {part: _read(task, files[part], part) for part in PARTS}
    for part in ("train", "validation"):
        parts[part] = _of_language(parts[part], trained_on, part, files[part], setting)
    if trained_on is None and len(task.settings) > 1 and len(parts["train"]) == 1:  # one language: that is the other setting
        only = next(iter(parts["train"]))
        raise InputError(f"setting {setting}: training examples in {only} alone; expected several languages")
    test, unlabelled = _by_labels(task, parts["test"])
    return TaskData(
        train=[example for examples in parts["train"].values() for example in examples],
        validation=parts["validation"],
        test=test,
        unlabelled=unlabelled,
        num_train={language: len(examples) for language, examples in parts["train"].items()},
        files={part: list(files[part]) for part in PARTS},
    )


def load_test(task: Task[Any], options: FileOptions) -> TaskData:
    """The test examples alone, for a model that is not trained. Raises InputError as `load` does."""
    if options.from_dev or (others := sorted(options.named.keys() - {"test"})):
        given = "--from_dev" if options.from_dev else f"--{others[0]}_files"
        raise InputError(f"--score_only and {given}: nothing is trained; name what is to be scored with --test_files")
    files = _files(task, options, "test", None, may_cut=False)
    return TaskData([], {}, *_by_labels(task, _read(task, files, "test")), {}, {"test": files})


def find(folder: Path, patterns: Sequence[str], language: str | None = None) -> list[SourceFile]:
    """Files below `folder` that match the first pattern with a match; with `language`, only its files or those of none."""
    for pattern in patterns:
        fits = _regex(pattern)
        found = []
        for path in sorted(folder.glob(re.sub(r"(\{\w+\}|\*)+", "*", pattern))):  # two stars would be any folders
            if match := fits.fullmatch(path.relative_to(folder).as_posix()):
                found.append(SourceFile(path, _language(match)))
        if wanted := [file for file in found if language is None or file.language in (None, language)]:
            return wanted
    return []


def named(text: str, patterns: Sequence[str], option: str) -> list[SourceFile]:
    """Files of a comma-separated `[LANGUAGE=]PATH`; a language not said is taken from the name where a pattern fits it."""
    files, expected = [], "PATH or LANGUAGE=PATH, several with commas between"
    for item in listed(option, text, expected):
        before, equals, after = item.partition("=")
        path = Path(after if equals else item)
        if not path.is_file():
            raise InputError(f"--{option}: {path}: no such file; expected {expected}")
        files.append(SourceFile(path, before if equals else _language_of_name(path, patterns)))
    return files


def _files(
    task: Task[Any], options: FileOptions, part: Part, language: str | None, may_cut: bool = True
) -> list[SourceFile]:
    patterns = task.patterns[part]
    if part in options.named:
        known = [*patterns, *(pattern for of_part in task.patterns.values() for pattern in of_part)]
        return named(options.named[part], known, f"{part}_files")  # a dev file may be tested on
    if not options.folder.is_dir():
        raise InputError(f"--data {options.folder}: no such folder")
    if found := find(options.folder, patterns, language):
        return found
    wanted = f" for {language}" if language else ""
    hint = "; --from_dev cuts dev files into parts" if may_cut and part != "validation" else ""
    raise InputError(
        f"{options.folder}: no {part} files of {task.name}{wanted}; expected {' or '.join(patterns)}, "
        f"or name them with --{part}_files{hint}"
    )


def _read(task: Task[Any], files: Sequence[SourceFile], part: str) -> dict[str, list[Any]]:
    """Examples by language. Several training files of one language are joined, and this is printed; a score is of one file.

    Raises InputError for two that are to be scored, or chosen by, as one language.
    """
    examples: dict[str, list[Any]] = {}
    came_from: dict[str, list[Path]] = {}
    progress = Progress(f"reading {part} files", len(files), "files")
    for file in files:
        for language, found in task.read(file.path, file.language).items():
            if not CODE.fullmatch(language):  # it names files that are written
                raise InputError(f"{file.path}: language {language[:80]!r}; expected a code such as de, zh-Hans or de-en")
            _check_labels(task, found, file.path, part)
            came_from.setdefault(language, []).append(file.path)
            examples.setdefault(language, []).extend(found)
        progress.advance(1)
    progress.close()
    for language, paths in came_from.items():
        if len(paths) > 1 and part != "train":
            raise InputError(
                f"{paths[0]} and {paths[1]}: two {part} sets in {language}, whose scores would be mixed; expected one a "
                f"language: name it with --{'validation' if part == 'dev' else part}_files {language}=PATH"
            )
        if len(paths) > 1:
            announce([Choice(f"training files in {language}", f"{len(paths)} together", ", ".join(map(str, paths[:3])))])
    empty = [language for language, found in examples.items() if not found]
    if empty or not examples:
        raise InputError(f"{files[0].path}: no {part} examples{' in ' + empty[0] if empty else ''}; expected at least one")
    return examples


def _check_labels(task: Task[Any], examples: Sequence[Any], path: Path, part: str) -> None:
    """Raise InputError for examples of one file without labels where they are needed, and where some have them."""
    without = sum(not task.is_labelled(example) for example in examples)
    if without and (part != "test" or without < len(examples)):
        wanted = "labels in all or in none" if part == "test" else "labels"
        raise InputError(f"{path}: {without:,} of {len(examples):,} {part} examples have no labels; expected {wanted}")


def _by_labels(task: Task[Any], examples: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Test examples by language, those with labels and those without."""
    ordered = dict(sorted(examples.items()))
    labelled = {language: found for language, found in ordered.items() if task.is_labelled(found[0])}
    return labelled, {language: found for language, found in ordered.items() if language not in labelled}


def _of_language(
    examples: dict[str, list[Any]], language: str | None, part: str, files: Sequence[SourceFile], setting: str
) -> dict[str, list[Any]]:
    """Examples of the language that is trained on; validation may not use another language either."""
    if language is None:
        return examples
    if language not in examples:
        raise InputError(
            f"{files[0].path}: {part} examples in {', '.join(examples)}; setting {setting} needs {language}; "
            f"name its file with --{part}_files {language}=PATH"
        )
    return {language: examples[language]}


def _cut_dev(task: Task[Any], options: FileOptions) -> tuple[dict[Part, list[SourceFile]], dict[Part, dict[str, list[Any]]]]:
    if clash := [part for part in ("train", "test") if part in options.named]:
        raise InputError(f"--from_dev and --{clash[0]}_files: expected one of them; the dev files give all three parts")
    files = _files(task, options, "validation", None)
    parts: dict[Part, dict[str, list[Any]]] = {part: {} for part in PARTS}
    for language, examples in _read(task, files, "dev").items():
        for index, example in enumerate(examples):
            parts[dev_part(task.split_key(example, index))].setdefault(language, []).append(example)
    for part, languages in parts.items():
        if not languages:
            raise InputError(f"{files[0].path}: too few examples for --from_dev, none fell to {part}")
    return dict.fromkeys(PARTS, files), parts


def dev_part(key: str) -> Part:
    """The part that a dev example goes to: the hash of its key, as a number in [0, 1), is compared with DEV_SHARES."""
    at = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if at < DEV_SHARES[0]:
        return "train"
    return "validation" if at < DEV_SHARES[0] + DEV_SHARES[1] else "test"


def _regex(pattern: str) -> re.Pattern[str]:
    """`{name}` a language, again the same one where it is repeated; `*` anything within a name."""
    pieces, seen = [], set()
    for piece in re.split(r"(\{\w+\}|\*)", pattern):
        name = piece[1:-1]
        if piece == "*":
            pieces.append("[^/]*")
        elif not piece.startswith("{"):
            pieces.append(re.escape(piece))
        else:
            pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>{LANGUAGE})")
            seen.add(name)
    return re.compile("".join(pieces))


def _language(match: re.Match[str]) -> str | None:
    return "-".join(dict.fromkeys(match.groups())) or None


def _language_of_name(path: Path, patterns: Sequence[str]) -> str | None:
    """The language that `find` would read from the path."""
    for pattern in patterns:
        length = pattern.count("/") + 1
        if match := _regex(pattern).fullmatch("/".join(path.parts[-length:])):
            return _language(match)
    return None
