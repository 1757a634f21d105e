"""The paragraphs of a page of LibreOffice's help, by the ids that they have in every language."""

from __future__ import annotations

from html.parser import HTMLParser

from data_prep.fetch.places.wording import SPACES

BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})
IDS = ("par_", "hd_", "bm")
OTHER_SYSTEMS = ("MAC", "WIN", "UNIX")
"""Ids of what is shown on one operating system alone: several versions of the same words in one paragraph."""


def paragraphs(html: str) -> dict[str, str]:
    """id -> text, in the page's order; empty ones left out."""
    page = _Page()
    page.feed(html)
    page.end_block()
    return page.found


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.block: str | None = None
        self.pieces: list[str] = []
        self.hidden = 0
        """How deep inside what is for one system alone."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("id") or ""
        if tag in BLOCKS:
            self.end_block()
            self.block = name if name.startswith(IDS) else None
        elif tag == "span" and self.block is not None and (self.hidden or name.startswith(OTHER_SYSTEMS)):
            self.hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.end_block()
        elif tag == "span" and self.hidden:
            self.hidden -= 1

    def handle_data(self, data: str) -> None:
        if self.block is not None and not self.hidden:
            self.pieces.append(data)

    def end_block(self) -> None:
        text = SPACES.sub(" ", "".join(self.pieces)).strip()
        if self.block is not None and text:
            self.found[self.block] = text
        self.block, self.pieces, self.hidden = None, [], 0
