"""An entry of a FreeDict dictionary: its headwords, their translations by sense, and examples with theirs.

    bugaleaj /byɡalˈɛːaʃ/ <g> (bugaleajoù)         headword, pronunciation, grammar, inflected forms
    1. enfance, jeunesse                           the translations of a sense
          "eil bugaleaj"  - sénilité               an example and its translation
       Synonym: {bugaleerezh}                      references and notes, which are passed over
    2. enfantillage
    état de l'enfance                              a second line of a sense explains the word in its own language

What stands in brackets goes, but for one thing: where a phrase in parentheses holds the headword, shortened, the phrase is
meant. `(tomber a. de) amoureux` is `tomber amoureux de`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PRONUNCIATION = re.compile(r"(?:(?<=\s)|^)/(?!\s)[^/]*(?<!\s)/(?=[\s,;)]|$)")
GRAMMAR = re.compile(r"<[^<>]*>|\[[^\[\]]*\]")
PARENTHESES = re.compile(r"\([^()]*\)")
SHORTENED = re.compile(r"(?<!\w)(\w{1,2})\.(?!\w)")
GRAMMAR_WORDS = re.compile(r"(?<=\S) (?:[bfgmnv]|str|adj\.?|adv\.?|aa\.|ag\.)$")
"""After a word, without brackets: `ruz adj.`, `moqueur n`."""
NEXT_SENSE = re.compile(r"(?<!\s)\s+\d+\.$")
NUMBERED = re.compile(r" ?(\d{1,9})\.(?:\s+(.*))?")
EXAMPLE = re.compile(r'\s+(?:\[[^\[\]]*\]\s*)?"(.+)"\s*(?:\([^()]*\)\s*)*(?: - (.*))?')
REFERENCE = re.compile(r"\s*(?:\S[^{}]*)?:? \{|\s*bn\s")
"""`see: {word}`, `Plural of {word}`, and as the Kurdish dictionary says it."""
SPACES = re.compile(r"\s+|(?<=\S)~(?=\S)")
"""Also as the Hindi dictionary writes one inside of a term."""
SENTENCE_ENDS = re.compile(r"(?<=[.!?…]), ")
ENDS = (".", "!", "?")
MOST_HEADWORDS = 50
"""Of an entry: each goes with all its translations."""
MARKS = re.compile(r"[][{}<>()=/+*_|~\\^@#%&\"]| [-–—] |^[-‐]|[-‐]$")
"""What is left of notation, or of an alternative that was not written out."""


@dataclass
class Entry:
    """What an entry says; all texts are clean."""

    headwords: list[str]
    senses: list[list[str]] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    unclear: int = 0
    """Translations with marks whose meaning is not known here."""
    explanations: int = 0
    """Sentences, and texts much longer than the headword, in the place of a translation."""


def read(text: str) -> Entry:
    """The entry that `text` is; without headwords where they are not clear."""
    head, *lines = text.rstrip().split("\n")
    entry = Entry(_headwords(head))
    if not 0 < len(entry.headwords) <= MOST_HEADWORDS or not all(map(_is_clear, entry.headwords)):
        return Entry([], unclear=1)
    number, is_expected = 0, True
    for line in lines:
        numbered = NUMBERED.fullmatch(line)
        if example := EXAMPLE.fullmatch(line):
            _add_example(entry, example[1], example[2] or "")
            is_expected = False
        elif numbered and not numbered[2]:  # with a space before it, it goes on with definitions
            number, is_expected = int(numbered[1]), not line.startswith(" ")
        elif numbered and int(numbered[1]) == number + 1:
            number, is_expected = number + 1, not _add_sense(entry, numbered[2])
        elif line.startswith("; ") and entry.senses and not is_expected:
            _add_sense(entry, line.removeprefix("; "), goes_on=True)
        elif numbered or line.startswith("  ") or REFERENCE.match(line):
            continue
        elif line.strip() and is_expected:
            is_expected = not _add_sense(entry, line)
    return entry


def _headwords(head: str) -> list[str]:
    """`jumuia, jumuiya /a/ /b/` is two, a phrase with a comma is one."""
    parts = [part.strip() for part in _clean(head).split(", ")]
    pronounced = len(PRONUNCIATION.findall(head))
    if len(parts) == pronounced or (not pronounced and not any(" " in part for part in parts)):
        return [part for part in parts if part]
    return [_clean(head)]


def _clean(text: str) -> str:
    """The text without what stands in brackets, or the phrase in parentheses that shortens it."""
    bare = NEXT_SENSE.sub("", GRAMMAR.sub("", PRONUNCIATION.sub("", text)))
    inside = [found[0][1:-1] for found in PARENTHESES.finditer(bare)]
    bare = _outside(bare) if inside else bare
    bare = GRAMMAR_WORDS.sub("", SPACES.sub(" ", bare).strip(" ,;"))
    for phrase in inside:
        if len(marks := SHORTENED.findall(phrase)) == 1 and bare.casefold().startswith(marks[0].casefold()):
            return SPACES.sub(" ", SHORTENED.sub(lambda _: bare, phrase)).replace("' ", "'").strip()
    return bare


def _outside(text: str) -> str:
    """What stands in no pair of parentheses."""
    kept: list[str] = []
    opened: list[int] = []
    for character in text:
        if character == ")" and opened:
            del kept[opened.pop() :]
            continue
        if character == "(":
            opened.append(len(kept))
        kept.append(character)
    return "".join(kept)


def _add_sense(entry: Entry, line: str, goes_on: bool = False) -> bool:
    """Add its translations as a sense, or to the last one if it `goes_on`; whether it had any words."""
    whole, headword = _clean(line), entry.headwords[0]
    is_sentence = whole.endswith(".") and whole[:1].isupper()
    if is_sentence and not headword.endswith(ENDS):
        entry.explanations += 1
        return True
    if ", " in headword or headword.endswith(ENDS):
        parts = SENTENCE_ENDS.split(whole)
    else:
        parts = [_clean(part) for part in _split(line)]
    kept = []
    for part in filter(None, parts):
        if not _is_clear(part):
            entry.unclear += 1
        elif _explains(part, headword):
            entry.explanations += 1
        else:
            kept.append(part)
    if kept and goes_on:
        entry.senses[-1] += kept
    elif kept:
        entry.senses.append(kept)
    return bool(whole)


def _split(line: str) -> list[str]:
    """At commas and semicolons outside of brackets."""
    depth, begin, parts = 0, 0, []
    for place, character in enumerate(line):
        depth = max(0, depth + (character in "([{<") - (character in ")]}>"))
        if not depth and character in ",;" and line[place + 1 : place + 2] in ("", " "):
            parts.append(line[begin:place])
            begin = place + 1
    return [*parts, line[begin:]]


def _is_clear(text: str) -> bool:
    return not MARKS.search(text) and any(map(str.isalpha, text))


def _explains(translation: str, headword: str) -> bool:
    return len(translation.split()) > 3 + 2 * len(headword.split())


def _add_example(entry: Entry, phrase: str, line: str) -> None:
    """One pair, or one for each alternative of the translation."""
    clean = _clean(phrase)
    if "," in clean or clean.endswith(ENDS):
        parts = SENTENCE_ENDS.split(_clean(line))
    else:
        parts = [_clean(part) for part in _split(line)]
    for part in filter(None, parts):
        if not (_is_clear(clean) and _is_clear(part)):
            entry.unclear += 1
        elif clean:
            entry.examples.append((clean, part))
