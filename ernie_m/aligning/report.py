"""Before and after as a table: for the terminal, and as a section of the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_m.base.language_codes import agree
from ernie_m.base.table import markdown, table

HEADING = "## Before and after"
HEAD = ("pairs of", "number", "->", "after", "<-", "after", "best layer", "after", "centred", "after", "unrelated", "after")


def rows_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[str]]:
    """A row for each set of pairs: held-out ones first."""
    rows = []
    for kind in ("held_out", "watched"):
        for name, was in before[kind].items():
            now = after[kind][name]
            cells = [name if kind == "held_out" else f"{name} (watched)", f"{was['pairs']:,}"]
            for figure in (_way(0), _way(1), _best, _centred, _unrelated):
                cells += [figure(was), figure(now)]
            rows.append(cells)
    return rows


def _way(way: int) -> Any:
    return lambda of: f"{of['layers'][-1][way]:.1f}"


def mean(both: Sequence[float]) -> float:
    """Of both ways."""
    return sum(both) / len(both)


def _best(of: Mapping[str, Any]) -> str:
    best = max(range(len(of["layers"])), key=lambda layer: mean(of["layers"][layer]))
    return f"{mean(of['layers'][best]):.1f} ({best})"


def _centred(of: Mapping[str, Any]) -> str:
    return f"{mean(of['centred'][-1]):.1f}"


def _unrelated(of: Mapping[str, Any]) -> str:
    return f"{of['unrelated'][-1]:.2f}"


def explained(before: Mapping[str, Any], after: Mapping[str, Any], pooling: str) -> list[str]:
    """What the columns are, and what is no column."""
    lines = [
        f"Accuracy@1 of finding the translation, %, by cosine of the last layer's {pooling} states, as the encoder is used: "
        "from the first language to the second (->) and back (<-). `best layer`: mean of both ways in the layer where it is "
        "highest, chosen on these very pairs, and its number. `centred`: mean of both ways with each side's mean vector "
        "subtracted. `unrelated`: mean cosine of sentences that do not translate each other; near 1, all point one way."
    ]
    was, now = before["gain"], after["gain"]
    if now is not None:
        had = "no head of masked words" if was is None else f"{was:+.3f} nats a mask"
        lines.append(f"Cross-lingual gain on held-out pairs: {had} before, {now:+.3f} nats a mask after.")
    else:
        lines.append("No cross-lingual gain: the encoder has no head of masked words.")
    for name, was_L in before.get("links", {}).items():
        of = [f"{min(errors):.1f} (layer {errors.index(min(errors))})" for errors in (was_L, after["links"][name])]
        lines.append(
            f"Links from states against gold {name}, error rate in the best layer, %: {of[0]} before, {of[1]} after."
        )
    changed = changes(before, after)
    known = {name for name in changed if is_trained(name, before)}
    lines += [f"Watched, {name}, whose languages are trained: {changed[name]:+.1f} points." for name in sorted(known)]
    if lost := {name: points for name, points in changed.items() if name not in known}:
        worst, total = min(lost, key=lost.__getitem__), sum(lost.values())
        lines.append(
            f"Watched, not trained: {total / len(lost):+.1f} points on average of {len(lost)}, the least {worst} with "
            f"{lost[worst]:+.1f}."
        )
    else:
        lines.append("Languages that are not in the pairs were not measured (--watch FOLDER).")
    return lines


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Points that each watched set gained, mean of both ways in the last layer."""
    sets = ((name, was["layers"][-1], after["watched"][name]["layers"][-1]) for name, was in before["watched"].items())
    return {name: mean(now) - mean(was) for name, was, now in sets}


def is_trained(watched: str, before: Mapping[str, Any]) -> bool:
    """Whether the pairs are of the set's two languages: `bre-eng` and `tatoeba.bre-eng` are `br-en`, in another domain."""
    theirs = watched.rpartition(".")[2].split("-")
    pairs = [name.split("-", 1) for name in before["held_out"]]
    return any(_are_alike(theirs, ours) or _are_alike(theirs[::-1], ours) for ours in pairs)


def _are_alike(some: Sequence[str], others: Sequence[str]) -> bool:
    return len(some) == len(others) and all(map(agree, some, others))


def for_terminal(before: Mapping[str, Any], after: Mapping[str, Any], pooling: str) -> str:
    """The table and what it says."""
    return "\n".join([table(HEAD, rows_of(before, after)), "", *explained(before, after, pooling)])


def for_card(before: Mapping[str, Any], after: Mapping[str, Any], pooling: str, said: Sequence[str]) -> str:
    """The same as a section in Markdown, with what was chosen and why."""
    shown = markdown(HEAD, rows_of(before, after))
    return "\n\n".join([HEADING, shown, *explained(before, after, pooling), "\n".join(f"- {line}" for line in said)])
