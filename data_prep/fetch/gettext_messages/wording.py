"""The text of a message as a person reads it, or nothing where it is none of its own.

Left out are messages with places for something else (`%s`, `{0}`, `$name`, `<file>` where it is translated), options of
commands, alternatives and names of variables, long ones (licences, usage), and those in which translators name themselves.
"""

from __future__ import annotations

import re

from data_prep.fetch.mo_files import Message
from data_prep.fetch.places.wording import AMPERSAND, TAG, without_markup

NOT_TEXT = re.compile(r"[][<%{}$|\\]|^/|(?:^|\s)--?\w|\w_\w.*\w_\w")
SHORTCUT_BEHIND = re.compile(r"\s*\([_&]\w\)")
"""As languages of other scripts have it: `ファイル(_F)`."""
UNDERSCORE = re.compile(r"_(?=\w)")
CREDITS = ("translator-credits", "translator_credits", "Your names", "Your emails")
MOST_CHARACTERS = 400
"""Of a message: a sentence or a few."""


def texts(message: Message) -> tuple[str, str] | None:
    """English and its translation; None where one of them is no text."""
    if message.english in CREDITS or max(len(message.english), len(message.translation)) > MOST_CHARACTERS:
        return None
    if sorted(TAG.findall(message.english)) != sorted(TAG.findall(message.translation)):
        return None
    english, translation = _text(message.english), _text(message.translation)
    return (english, translation) if english and translation else None


def _text(text: str) -> str:
    bare = without_markup(text)
    return "" if NOT_TEXT.search(bare) else UNDERSCORE.sub("", AMPERSAND.sub("", SHORTCUT_BEHIND.sub("", bare))).strip()
