"""The mixture report: its numbers are those that training will see."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest

from data_prep import stats as stats_module
from data_prep.__main__ import Commands
from data_prep.mixture_plot import INCHES_PER_STREAM
from data_prep.stats import MANY_REPEATS, DrawPlan, FolderStats, StreamStats, folder_stats
from data_prep.stats_report import stats
from ernie_m.base.console import InputError
from ernie_m.base.sampling import MIXTURE_PERIOD
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusFolder
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.objectives import OBJECTIVES
from ernie_m.rows.row_source import TARGET_FILL, RowSettings, RowSource
from ernie_m.rows.schedule import Schedule, StageConfig

SEQUENCE_LENGTH = 128


def stream(name: str, rows: int, tokens: int) -> SimpleNamespace:
    return SimpleNamespace(name=name, languages=tuple(name.split("-")), num_rows=rows, num_tokens=tokens)


def folder_of(monkeypatch: pytest.MonkeyPatch, *streams: SimpleNamespace) -> None:
    """Let `stats` find these streams, whatever folder it opens; as many held-out rows as there are letters in the name."""

    def of(num_languages: int, split: str) -> list[SimpleNamespace]:
        found = [s for s in streams if len(s.languages) == num_languages]
        return found if split == TRAIN else [stream(s.name, len(s.name), 1) for s in found if num_languages == 2]

    manifest = SimpleNamespace(columns={})
    fake = SimpleNamespace(monolingual=lambda split: of(1, split), parallel=lambda split: of(2, split), manifest=manifest)
    monkeypatch.setattr(stats_module, "CorpusFolder", lambda _: fake)


@pytest.mark.parametrize(
    ("name", "carries_less"),
    [("MMLM", 0.0), ("TLM", 0.0), ("CAMLM", 0.13), ("BTMLM", 0.15)],
)
def test_as_many_rows_as_training_counts_in_an_epoch_are_one_repeat(
    corpus_folder: CorpusFolder, name: str, carries_less: float
) -> None:
    """What keeps the constants and formulas of `stats` those of row_source: they may not import each other."""
    objective = OBJECTIVES[name]
    settings = RowSettings(SEQUENCE_LENGTH, corpus_folder.manifest.specials, CorruptionConfig(), seed=0)
    is_parallel = objective.num_sentences == 2
    streams = corpus_folder.parallel() if is_parallel else corpus_folder.monolingual()
    for number, found in enumerate(streams[:2]):
        rows = RowSource(objective, found, corpus_folder.language_ids, settings).rows_per_epoch
        plan = DrawPlan(rows, 1, SEQUENCE_LENGTH, float(is_parallel))
        report = folder_stats(corpus_folder.folder, 0.0, plan)  # alpha 0: each stream gets the same rows
        described = (report.pairs if is_parallel else report.languages)[number]
        assert described.name == found.name
        repeats = (described.repeats or 0) * len(streams)
        assert repeats == pytest.approx(1 / (1 - carries_less), rel=0.03)
    assert stats_module.ROW_FILL == TARGET_FILL


def test_tokens_drawn_are_those_in_the_rows_of_training(corpus_folder: CorpusFolder) -> None:
    """Every row of a short run, token by token: 1 of 3 rows is running text, 2 of 3 are pairs."""
    steps, rows_per_step, alpha = 160, 9, 0.5
    schedule = Schedule((StageConfig(steps=steps, rows={"MMLM": 1, "TLM": 2}),), rows_per_step)
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=SEQUENCE_LENGTH, alpha=alpha), schedule, seed=0)
    seen: Counter[str] = Counter()
    for step in range(steps):
        for address in schedule.rows_of_step(step):
            row = data.row(address)
            kind, _, name = [metric.name for metric in data.metrics][row.metric].partition("/")
            special = 2 * OBJECTIVES[kind].num_sentences
            seen[name] += sum(len(document.input_ids) - special for document in row.documents)
    report = folder_stats(corpus_folder.folder, alpha, DrawPlan(steps, rows_per_step, SEQUENCE_LENGTH, 2 / 3))
    described = {s.name: s for s in (*report.languages, *report.pairs)}
    assert described.keys() == seen.keys() >= {"en", "sw", "de-en"}
    for name, tokens in seen.items():
        rows = tokens / (SEQUENCE_LENGTH * TARGET_FILL)
        assert described[name].tokens_drawn == pytest.approx(tokens, rel=0.03 + 4 / rows**0.5), name  # a random draw of rows
    assert sum(s.tokens_drawn or 0 for s in described.values()) == pytest.approx(seen.total(), rel=0.02)
    assert all(s.repeats == pytest.approx((s.tokens_drawn or 0) / s.tokens) for s in described.values())


def test_p_is_the_smoothed_share_of_the_tokens_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(monkeypatch, stream("en", 100, 8100), stream("sw", 10, 100), stream("xx", 0, 0), stream("de-en", 4, 400))
    for alpha, p in ((1.0, 81 / 82), (0.5, 0.9), (0.0, 0.5)):
        report = folder_stats(Path("d"), alpha)
        assert [s.name for s in report.languages] == ["en", "sw"], "a stream without tokens is never drawn"
        assert report.languages[0].p == pytest.approx(p)
        assert report.languages[0].share == pytest.approx(81 / 82)
        assert report.pairs[0].p == report.pairs[0].share == 1
        assert (report.languages[0].mean_length, report.pairs[0].mean_length) == (81, 50)
        assert (report.languages[0].held_out_rows, report.pairs[0].held_out_rows) == (0, 5)
        assert report.languages[0].repeats is None


def test_a_tiny_stream_gets_the_row_of_each_period_that_training_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(monkeypatch, stream("en", 10**9, 10**11), stream("sw", 10, 200))
    sw = folder_stats(Path("d"), 1.0, DrawPlan(steps=MIXTURE_PERIOD, rows_per_step=1, sequence_length=512)).languages[1]
    assert sw.p * MIXTURE_PERIOD < 1e-4
    assert sw.tokens_drawn == pytest.approx(512 * TARGET_FILL, rel=0.01)


def test_more_steps_or_rows_repeat_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(monkeypatch, stream("en", 5000, 10**6), stream("de-en", 4000, 10**6))
    once = folder_stats(Path("d"), 0.3, DrawPlan(100, 256, 128))
    assert once.plan is not None
    assert once.plan.parallel_share == pytest.approx(2 / 3)
    for plan in (DrawPlan(400, 256, 128), DrawPlan(100, 1024, 128), DrawPlan(200, 512, 128)):
        four_times = folder_stats(Path("d"), 0.3, plan)
        for a, b in zip((*once.languages, *once.pairs), (*four_times.languages, *four_times.pairs), strict=True):
            assert b.repeats == pytest.approx(4 * (a.repeats or 0))


def test_where_only_one_kind_is_there_all_rows_are_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, share, absent in (("en", 0.0, "pairs"), ("de-en", 1.0, "monolingual text")):
        folder_of(monkeypatch, stream(name, 5000, 10**6))
        assert folder_stats(Path("d"), 0.3, DrawPlan(10)).plan == DrawPlan(10, parallel_share=share)
        with pytest.raises(InputError, match=rf"--parallel_share 0\.5: d has no {absent}"):
            folder_stats(Path("d"), 0.3, DrawPlan(10, parallel_share=0.5))


def test_the_report_marks_what_is_seen_more_than_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(monkeypatch, stream("en", 10**6, 10**8), stream("sw", 4000, 10**5), stream("de-en", 10**6, 10**8))
    plan = DrawPlan(3000, 256, 128)
    lines = {line.split()[0]: line for line in stats(Path("d"), 0.3, plan).splitlines() if line}
    assert lines["plan:"].startswith("plan: 3,000 steps of 256 rows of 128 positions; 33.3 % of the rows monolingual")
    worn = [s for s in folder_stats(Path("d"), 0.3, plan).languages if s.is_worn]
    assert [s.name for s in worn] == ["sw"]
    assert lines["sw"].endswith("more than 4")
    assert f"{worn[0].repeats:,.2f}" in lines["sw"]
    assert "more than" not in lines["en"] + lines["de-en"]
    assert "1 of 3 streams are repeated more than 4 times (most: sw," in lines["1"]
    assert "Muennighoff" in lines["1"]
    assert "repeat" not in stats(Path("d"), 0.3), "without a plan nothing is said of repeats"


def test_json_holds_the_numbers_unrounded(corpus_folder: CorpusFolder, tmp_path: Path) -> None:
    plan = DrawPlan(50, 12, SEQUENCE_LENGTH, 0.5)
    stats(corpus_folder.folder, 0.3, plan, json=tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    report = folder_stats(corpus_folder.folder, 0.3, plan)
    assert content["alpha"] == 0.3
    assert content["plan"] == {"steps": 50, "rows_per_step": 12, "sequence_length": SEQUENCE_LENGTH, "parallel_share": 0.5}
    for key, streams in (("languages", report.languages), ("pairs", report.pairs)):
        assert tuple(StreamStats(**entry) for entry in content[key]) == streams
    held_out = {s.name: s.num_rows for s in corpus_folder.parallel(HELD_OUT)}
    assert {s["name"]: s["held_out_rows"] for s in content["pairs"] if s["held_out_rows"]} == held_out


def made(num_languages: int, num_pairs: int, plan: DrawPlan | None) -> FolderStats:
    def of(name: str, number: int) -> StreamStats:
        repeats = None if plan is None else 10.0 ** (number % 7 - 4)
        return StreamStats(f"{name}{number}", 5, 100, 20.0, 10.0**-number / 2, 0.01, 0, None, repeats)

    languages = tuple(of("l", i) for i in range(num_languages))
    return FolderStats("d", 0.3, plan, languages, tuple(of("p", i) for i in range(num_pairs)))


@pytest.mark.parametrize("plan", [None, DrawPlan(10, parallel_share=0.5)])
@pytest.mark.parametrize(("num_languages", "num_pairs"), [(3, 1), (1, 0), (0, 2), (100, 14)])
def test_the_plot_has_room_for_every_stream(
    num_languages: int, num_pairs: int, plan: DrawPlan | None, tmp_path: Path
) -> None:
    from data_prep.mixture_plot import draw

    draw(made(num_languages, num_pairs, plan), tmp_path / "m.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "m.png").shape
    assert height >= 120 * INCHES_PER_STREAM * (num_languages + num_pairs)
    assert (width > 800) == (plan is not None), "repeats have a panel of their own"
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_a_wrong_output_path_is_named_before_any_work(tmp_path: Path) -> None:
    for option in ("json", "plot", "html"):
        with pytest.raises(InputError, match=f"--{option} .*gone/x: the folder .*gone does not exist"):
            stats(tmp_path / "no data", 0.3, **{option: tmp_path / "gone" / "x"})
        (tmp_path / "notes").write_text("mine")
        with pytest.raises(InputError, match=f"--{option} .*notes: exists and stays as it is"):
            stats(tmp_path / "no data", 0.3, **{option: tmp_path / "notes"})
        with pytest.raises(InputError, match="no such folder"):  # the next thing that is wrong
            stats(tmp_path / "no data", 0.3, overwrite=True, **{option: tmp_path / "notes"})
    with pytest.raises(InputError, match=r"--html .*x: --json is the same file; expected a file for each"):
        stats(tmp_path / "no data", 0.3, json=tmp_path / "x", html=tmp_path / "x")
    assert MANY_REPEATS == 4


def test_what_counts_with_a_number_of_steps_is_refused_without() -> None:
    for option, value in (("rows_per_step", 1), ("sequence_length", 16), ("parallel_share", 0.0)):
        with pytest.raises(InputError, match=f"--{option}: expected with --steps alone"):
            Commands().stats(data="no data", **{option: value})
    with pytest.raises(InputError, match="no such folder"):
        Commands().stats(data="no data", steps=5, rows_per_step=1)


def test_the_page_tells_what_was_left_out_and_shows_strange_text_as_text(built: Path, tmp_path: Path) -> None:
    report = json.loads((built / "report.json").read_text())
    report["corpora"][1]["rejected"]["empty"]["first"][0]["text"] = "<script>alert(1)</script>"
    report["corpora"][0]["left_out"] = "its file was <b>damaged</b>"
    (built / "report.json").write_text(json.dumps(report))
    stats(built, 0.3, DrawPlan(10, 8, 64), html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,iVBOR" in page
    assert "mono.en was left out: its file was &lt;b&gt;damaged&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in page
    for reason, found in report["corpora"][1]["rejected"].items():
        assert re.search(rf"{found['lines']:,} \([0-9.]+ %\) left out: {reason}", page)
    tokens = {stream.name: stream.num_tokens for stream in CorpusFolder(built).parallel(TRAIN)}
    for name, number in tokens.items():
        assert re.search(rf"<td>{name}</td>.*<td>{number:,}</td>", page)
    with pytest.raises(InputError, match=r"page\.html"):
        stats(built, 0.3, html=tmp_path / "page.html")
    (built / "report.json").write_text('{"corpora": [{}]}')
    with pytest.raises(InputError, match=r"report.json: damaged \(KeyError"):
        stats(built, 0.3, html=tmp_path / "other.html")
    (built / "report.json").unlink()
    stats(built, 0.3, html=tmp_path / "other.html")
