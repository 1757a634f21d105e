"""A mask must not learn of its own answer, over any number of layers: by closure, by bits and by gradient."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ernie_m.base.special_tokens import Specials
from ernie_m.models.model import Encoder
from ernie_m.rows.attention_rule import attention_rule, check_no_leak, closure, dense_mask
from ernie_m.rows.batch import Document, Example, LossRequest, PackedBatch
from ernie_m.rows.corruption import INSERT, NOTHING, REPLACE, CorruptionConfig
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import ALIGNED, CORRUPTED, LINKED, NEXT, SENTENCE, SENTENCES, Objective, Prediction
from ernie_m.rows.objectives import ALIGNLM, BTMLM, CAMLM, LOSS_INDEX, PLM, XLCO
from tests.batch_fixtures import MX, MY, X, Y, is_group, with_other_ids

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

P = 1  # BTMLM's placeholders
NAIVE = {"X": "X Y", "Y": "X Y", "MX": "Y MX", "MY": "X MY"}
DEEP = {"num_layers": 12, "hidden_size": 64, "num_heads": 4, "ffn_size": 128, "dtype": torch.float64}


@pytest.fixture
def deep(encoder_of: EncoderOf) -> Encoder:
    return encoder_of(**DEEP)


@pytest.fixture
def stage_1(documents_of: DocumentsOf, batch_of: BatchOf) -> PackedBatch:
    """BTMLM's rows as stage 1 sees them (both rows hold placeholders)."""
    batch = batch_of(BTMLM, documents_of(BTMLM))
    return replace(batch, input_ids_BS=batch.generation.input_ids_RS, reads_BS=batch.generation.reads_RS)


def others(batch: PackedBatch, document: int) -> Tensor:
    """Everything outside document `document` of row 0, padding and row 1 included."""
    inside = batch.document_BS == document
    inside[1:] = False
    return ~inside


def logits(model: Encoder, batch: PackedBatch, where: Tensor, layer: int | None = None) -> Tensor:
    with torch.no_grad():
        return model.token_head.logits(model.hidden_states(batch, layer)[where])


def embedded_gradient(model: Encoder, batch: PackedBatch, where: Tensor) -> Tensor:
    """Largest |gradient| of the logits at `where` with respect to each position's embedded input, [B, S]."""
    caught: list[Tensor] = []

    def catch(module: object, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        caught.append(output)

    handle = model.embeddings.register_forward_hook(catch)
    model.token_head.logits(model.hidden_states(batch)[where]).log_softmax(-1)[:, 7].sum().backward()
    handle.remove()
    assert caught[0].grad is not None
    return caught[0].grad.abs().amax(-1)


@pytest.fixture
def naive_camlm(monkeypatch: pytest.MonkeyPatch) -> Objective:
    """The table one would write first; only without the check can it be built."""
    with monkeypatch.context() as patched:
        patched.setattr("ernie_m.rows.objective.check_no_leak", lambda *_: None)
        return replace(CAMLM, reads=NAIVE)


def test_closure_refuses_the_naive_CAMLM_table() -> None:
    with pytest.raises(ValueError, match="X reaches MX"):
        replace(CAMLM, reads=NAIVE)
    with pytest.raises(ValueError, match="a mask would see its answer"):
        check_no_leak("three steps", {"M": "A", "A": "B", "B": "C", "C": "C"}, [("M", "C")])
    assert closure(NAIVE)["MX"] == {"X", "Y", "MX"}


def test_closure_holds_for_the_tables_in_use() -> None:
    assert "X" not in closure(CAMLM.reads)["MX"]
    assert "Y" not in closure(CAMLM.reads)["MY"]
    assert "P" not in closure(BTMLM.generation_reads)["X"]


def test_closure_also_guards_stage_1() -> None:
    with pytest.raises(ValueError, match="stage 1: P reaches X"):
        replace(BTMLM, generation_reads={"X": "X P", "P": "X P"})


# -- any table at all ----------------------------------------------------------------------------------------------


def any_entry(rng: np.random.Generator) -> dict[str, Any]:
    """An entry of any shape, most of them well-formed, with any reads."""
    num_sentences, corruption = int(rng.integers(1, 3)), str(rng.choice([REPLACE, INSERT, NOTHING]))
    groups = ["X", "Y"][:num_sentences] + ["MX", "MY"][: num_sentences * (corruption == INSERT)]
    is_pseudo_parallel = num_sentences == 1 and corruption == REPLACE and rng.random() < 0.7
    groups += ["P"] * is_pseudo_parallel
    if rng.random() < 0.2:
        rng.shuffle(groups)  # names alone: what a group is follows from its place

    def table() -> dict[str, str]:
        return {group: " ".join(g for g in groups if rng.random() < 0.4) for group in groups}

    reads, generation, causal, asked = table(), table() if is_pseudo_parallel else None, (), CORRUPTED
    if corruption == NOTHING:
        asked = SENTENCES if num_sentences == 2 and rng.random() < 0.3 else NEXT
    if asked == NEXT:
        chosen = tuple(group for group in groups if rng.random() < 0.6)
        causal = chosen or (groups[-1],)
    predictions = (Prediction("ANY", SENTENCE if asked == SENTENCES else "token", asked),)
    return {"num_sentences": num_sentences, "corruption": corruption, "groups": tuple(groups), "reads": reads,
            "predictions": predictions, "causal": causal, "generation_reads": generation}  # fmt: skip


def reached_by_brute_force(document: Document, reads: np.ndarray) -> np.ndarray:
    """bool [L, L]: whose input reaches each token over any number of layers, by the attention rule itself."""
    rule = attention_rule(np.zeros((1, len(document))), document.group[None], reads[None], document.horizon[None])
    places = np.arange(len(document))
    reached = dense_mask(rule, np.arange(1), places)[0, 0]
    for _ in range(len(document).bit_length()):
        reached = reached @ reached
    return reached


def leaks(objective: Objective) -> bool:
    """Whether a token that predicts learns of what it is asked for, or stage 1's sentence of its placeholders."""
    sentences = [np.arange(10, 14, dtype=np.int32), np.arange(30, 33, dtype=np.int32)][: objective.num_sentences]
    example = Example(tuple(sentences), (1, 2)[: objective.num_sentences])
    document = Layout(objective, CorruptionConfig(mask_rate=0.5), Specials.xlm_r(101)).lay_out(example, 7, 3)
    reached = reached_by_brute_force(document, document.reads)
    places = np.arange(len(document))
    if objective.predictions[0].asked == NEXT:
        behind = [(document.group == document.group[q]) & (places > q) for q in document.predicted]
        return any(bool(reached[q, later].any()) for q, later in zip(document.predicted, behind, strict=True))
    if objective.predictions[0].asked == SENTENCES:
        return any(bool(reached[q, document.group != document.group[q]].any()) for q in document.predicted)
    if objective.corruption == INSERT:
        shares = [(places < 6), (places >= 6) & (places < 11)]  # 4 and 3 tokens, and two specials each
        own = [shares[0 if label < 30 else 1] for label in document.labels]
        return any(bool(reached[q, sentence].any()) for q, sentence in zip(document.predicted, own, strict=True))
    if not objective.is_pseudo_parallel:
        return False  # the answers are not there
    in_stage_1 = reached_by_brute_force(document, document.generation_reads)
    return bool(in_stage_1[: document.placeholders[0], document.placeholders].any())


def built(entry: dict[str, Any]) -> tuple[Objective | None, str]:
    """The objective of this entry, or why there is none."""
    try:
        return Objective("ANY", **entry), ""
    except ValueError as error:
        return None, str(error)


def test_any_entry_is_accepted_if_and_only_if_it_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, seen = np.random.default_rng(0), Counter[tuple[str, str]]()
    for _ in range(1500):
        entry = any_entry(rng)
        with monkeypatch.context() as patched:
            patched.setattr("ernie_m.rows.objective.check_no_leak", lambda *_: None)
            unchecked, fault = built(entry)
        if unchecked is None:
            assert "none reads a sentence" in fault or "is never seen" in fault, f"{entry}: {fault}"
            continue
        checked, fault = built(entry)
        assert (checked is None) == leaks(unchecked), f"{entry}: {fault}"
        assert checked is not None or "would see its answer. Let neither" in fault
        kind = entry["corruption"] if entry["corruption"] != NOTHING else entry["predictions"][0].asked
        seen["accepted" if checked is not None else "refused", kind] += 1
    assert min(seen[found, INSERT] for found in ("accepted", "refused")) > 10, seen
    assert min(seen["accepted", kind] for kind in (REPLACE, NEXT)) > 100
    assert min(seen["refused", kind] for kind in (REPLACE, NEXT, SENTENCES)) > 5, seen
    assert seen["accepted", SENTENCES] > 5


ASKED = {"predictions": (Prediction("ODD"),)}
ORDINARY = {"num_sentences": 2, "corruption": INSERT, "groups": CAMLM.groups, "reads": CAMLM.reads, **ASKED}
PSEUDO = {"num_sentences": 1, "corruption": REPLACE, "groups": BTMLM.groups, "reads": BTMLM.reads, **ASKED}
PREFIX = {"num_sentences": 2, "corruption": NOTHING, "groups": PLM.groups, "reads": PLM.reads, "causal": ("Y",),
          "predictions": PLM.predictions}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ORDINARY | {"corruption": "insrt"}, "corruption 'insrt'; expected one of none, replace, insert"),
        (ORDINARY | {"num_sentences": 3}, "num_sentences 3; expected 1, a line of text, or 2"),
        (ORDINARY | {"num_sentences": 0}, "num_sentences 0; expected 1"),
        (ORDINARY | {"groups": ("X", "Y", "MY", "MX")}, "X reaches MY"),
        (ORDINARY | {"groups": ("X", "Y", "MX")}, "expected 2 of sentences, then 2 of their masks"),
        (ORDINARY | {"groups": ("X", "Y", "MX", "MX")}, "all names different"),
        (ORDINARY | {"reads": {**CAMLM.reads, "MX": "YY"}}, "expected a line for each of X, Y, MX, MY, and no other names"),
        (ORDINARY | {"reads": {"X": "X", "Y": "Y", "MX": "Y"}}, "expected a line for each"),
        (ORDINARY | {"must_not_reach": (("MX", "Z"),)}, "promises about Z; the groups are X, Y, MX, MY"),
        (ORDINARY | {"must_not_reach": (("MX", "Y"),)}, "Y reaches MX"),
        (ORDINARY | {"generation_must_not_reach": (("X", "Y"),)}, "without generation_reads"),
        (ORDINARY | {"merges_lines": True}, "merges_lines joins lines of text"),
        (ORDINARY | {"reads": dict.fromkeys(CAMLM.groups, "")}, "predicted, and none reads a sentence"),
        (ORDINARY | {"generation_reads": CAMLM.reads}, "inserted ones"),
        (PSEUDO | {"generation_reads": {"X": "X"}}, "generation_reads .* expected a line for each of X, P"),
        (PSEUDO | {"corruption": NOTHING, "generation_reads": BTMLM.generation_reads}, "need masks that replace tokens"),
        (ORDINARY | {"predictions": ()}, "no predictions; nothing would be learnt"),
        (ORDINARY | {"predictions": (Prediction("ODD", "words"),)}, "head 'words'; expected one of token, sentence"),
        (ORDINARY | {"predictions": (Prediction("ODD", asked="all"),)}, "asked 'all'; expected one of corrupted, next"),
        (ORDINARY | {"predictions": (Prediction("A/B"),)}, "loss 'A/B'; a slash"),
        (ORDINARY | {"predictions": (Prediction("ODD", asked=NEXT),)}, "both or neither"),
        (ORDINARY | {"causal": ("Y",)}, "with causal groups"),
        (PREFIX | {"causal": ("Z",)}, "causal Z; expected groups of sentences: X, Y"),
        (PREFIX | {"causal": ("X",), "reads": {"X": "X Y", "Y": "Y"}}, "reads Y, which stands behind it"),
        (PREFIX | {"reads": {"X": "X Y", "Y": "X Y"}}, "Y reaches X"),
        (PSEUDO | {"groups": ("X",), "reads": {"X": "X"}, "corruption": NOTHING,
                   "predictions": XLCO.predictions}, "asks for translations, and num_sentences is 1"),
        (
            {
                **ASKED,
                "num_sentences": 2,
                "corruption": REPLACE,
                "groups": ("X", "Y", "P"),
                "reads": dict.fromkeys("XYP", "X Y P"),
                "generation_reads": {"X": "X", "Y": "Y", "P": "X Y P"},
            },
            "of one sentence",
        ),
        (PSEUDO, "expected 1 of sentences, then 0"),
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_refused_in_one_line(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Objective("ODD", **entry)
    assert str(caught.value).startswith("ODD")
    assert "\n" not in str(caught.value)


def linked_entry(corruption: str, reads: dict[str, str]) -> Objective:
    return Objective("ANY", 2, corruption, tuple(reads), reads, (Prediction("ANY", ALIGNED, LINKED),))


def test_closure_guards_what_links_bring() -> None:
    """With inserted masks the answer stands in the row: a linked token must not have read it."""
    linked_entry(INSERT, CAMLM.reads)
    linked_entry(REPLACE, ALIGNLM.reads)
    with pytest.raises(ValueError, match="a mask would see its answer"):
        linked_entry(INSERT, {**CAMLM.reads, "Y": "X Y"})
    with pytest.raises(ValueError, match='"aligned" and asked "linked" go together'):
        replace(ALIGNLM, predictions=(Prediction("ODD", asked=LINKED),))
    with pytest.raises(ValueError, match="reads links of pairs, and num_sentences is 1"):
        Objective("ODD", 1, REPLACE, ("X",), {"X": "X"}, (Prediction("ODD", ALIGNED, LINKED),))


def test_AlignLM_is_bit_equal_when_the_tokens_behind_its_masks_change(deep: Encoder, batch_of: BatchOf) -> None:
    """The hidden originals are in no state that either head reads: same logits, whatever they were."""
    layout, lengths, masks = Layout(ALIGNLM, CorruptionConfig(mask_rate=0.4), Specials.xlm_r(101)), (9, 7), 100
    rng, links = np.random.default_rng(0), {"links": np.stack([np.arange(7), 9 + np.arange(7)], axis=1)}
    ids = [rng.integers(10, 90, n, dtype=np.int32) for n in lengths]
    first = layout.lay_out(Example(tuple(ids), (1, 2), links), 5)
    hidden = first.predicted[(first.input_ids[first.predicted] == masks) & (first.prediction == 1)]
    assert len(hidden) > 2
    for place in hidden.tolist():
        sentence, index = divmod(place, 11)  # <s> and 9 tokens and </s>, then </s> in front of the second
        changed = [own.copy() for own in ids]
        changed[sentence][index - 1] = 9
        other = layout.lay_out(Example(tuple(changed), (1, 2), links), 5)
        assert np.array_equal(other.input_ids, first.input_ids)
        assert np.array_equal(other.sources, first.sources)
        at = first.predicted == place
        assert (other.labels != first.labels).tolist() == at.tolist()
    batch = batch_of(ALIGNLM, [[first]])
    caught: list[Tensor] = []
    handle = deep.heads["aligned"].transfer.register_forward_hook(lambda _, inputs, output: caught.append(inputs[0]))
    for _ in range(2):
        deep(batch, LossRequest(torch.ones(len(LOSS_INDEX)), 2))
        batch = replace(batch, labels_N=(batch.labels_N + 1) % 90)
    handle.remove()
    assert torch.equal(*caught)
    assert len(caught[0]) == int((first.prediction == 1).sum())


@pytest.mark.parametrize("document", [0, 1])
def test_CAMLM_masks_are_bit_equal_when_their_own_sentence_changes(deep: Encoder, camlm: PackedBatch, document: int) -> None:
    for own, masks, other_masks in ((X, MX, MY), (Y, MY, MX)):
        at_masks, at_others = is_group(camlm, document, masks), is_group(camlm, document, other_masks)
        before, before_others = logits(deep, camlm, at_masks), logits(deep, camlm, at_others)
        outside = logits(deep, camlm, others(camlm, document))
        own_tokens = is_group(camlm, document, own)
        each = [torch.zeros_like(own_tokens).index_put(tuple(p), torch.tensor(True)) for p in own_tokens.nonzero()]
        for where in [own_tokens, *each]:
            changed = with_other_ids(camlm, where)
            assert torch.equal(logits(deep, changed, at_masks), before)
            assert torch.equal(logits(deep, changed, others(camlm, document)), outside)
            assert bool((logits(deep, changed, at_others) != before_others).any(-1).all()), "what may be read must be read"


def test_CAMLM_sentences_are_bit_equal_when_the_masks_or_the_other_sentence_change(
    deep: Encoder, camlm: PackedBatch
) -> None:
    for own, unseen in ((X, (Y, MX, MY)), (Y, (X, MX, MY))):
        at_own = is_group(camlm, 0, own)
        changed = with_other_ids(camlm, is_group(camlm, 0, *unseen))
        assert torch.equal(logits(deep, changed, at_own), logits(deep, camlm, at_own))


def test_CAMLM_gradient_is_exactly_zero_where_nothing_may_be_learnt(deep: Encoder, camlm: PackedBatch) -> None:
    for own, other, masks, other_masks in ((X, Y, MX, MY), (Y, X, MY, MX)):
        gradient = embedded_gradient(deep, camlm, is_group(camlm, 1, masks))
        assert torch.count_nonzero(gradient[is_group(camlm, 1, own, other_masks)]) == 0
        assert torch.count_nonzero(gradient[others(camlm, 1)]) == 0
        assert bool((gradient[is_group(camlm, 1, other, masks)] > 0).all())


def test_the_naive_table_leaks_at_layer_2_and_these_tests_would_see_it(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf, naive_camlm: Objective
) -> None:
    model = encoder_of(**DEEP)
    naive = batch_of(CAMLM, documents_of(naive_camlm))
    changed = with_other_ids(naive, is_group(naive, 0, X))
    at_masks = is_group(naive, 0, MX)
    assert torch.equal(logits(model, changed, at_masks, layer=1), logits(model, naive, at_masks, layer=1))
    for layer in (2, 12):
        different = logits(model, changed, at_masks, layer) != logits(model, naive, at_masks, layer)
        assert bool(different.any(-1).all()), f"layer {layer}"
    gradient = embedded_gradient(model, naive, at_masks)
    assert bool((gradient[is_group(naive, 0, X)] > 0).all())


def test_BTMLM_stage_1_sentence_is_bit_equal_when_its_placeholders_change(deep: Encoder, stage_1: PackedBatch) -> None:
    sentence, slots = is_group(stage_1, 0, X), is_group(stage_1, 0, P)
    before, before_slots = logits(deep, stage_1, sentence), logits(deep, stage_1, slots)
    other_language = replace(stage_1, language_BS=torch.where(slots, 4, stage_1.language_BS))
    for changed in (with_other_ids(stage_1, slots), other_language):
        assert torch.equal(logits(deep, changed, sentence), before)
        assert bool((logits(deep, changed, slots) != before_slots).any(-1).all()), "slots must notice"
    gradient = embedded_gradient(deep, stage_1, sentence)
    assert torch.count_nonzero(gradient[slots]) == 0
    assert bool((gradient[sentence] > 0).all())


def test_BTMLM_stage_1_placeholders_hear_their_own_document_alone(deep: Encoder, stage_1: PackedBatch) -> None:
    slots = is_group(stage_1, 1, P)
    before = logits(deep, stage_1, slots)
    assert torch.equal(logits(deep, with_other_ids(stage_1, others(stage_1, 1)), slots), before)
    own = with_other_ids(stage_1, is_group(stage_1, 1, X))
    assert bool((logits(deep, own, slots) != before).any(-1).all())
    gradient = embedded_gradient(deep, stage_1, slots)
    assert torch.count_nonzero(gradient[others(stage_1, 1)]) == 0
    assert bool((gradient[is_group(stage_1, 1, X, P)] > 0).all())


def test_no_objective_reads_across_documents(
    objective: Objective, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of(dtype=torch.float64, num_layers=3)
    batch = batch_of(objective, documents_of(objective))
    inside = ~others(batch, 1)
    before = logits(model, batch, inside)
    assert torch.equal(logits(model, with_other_ids(batch, others(batch, 1)), inside), before)
    assert not torch.equal(logits(model, with_other_ids(batch, inside), inside), before)


def test_CLM_does_not_see_the_future(encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    from ernie_m.rows.objectives import CLM

    model = encoder_of(dtype=torch.float64, num_layers=3)
    batch = batch_of(CLM, documents_of(CLM))
    document = (~others(batch, 1))[0].nonzero().flatten()
    early, late = (
        torch.zeros_like(batch.input_ids_BS, dtype=torch.bool),
        torch.zeros_like(batch.input_ids_BS, dtype=torch.bool),
    )
    early[0, document[:3]] = True
    late[0, document[3:]] = True
    before = logits(model, batch, early)
    assert torch.equal(logits(model, with_other_ids(batch, late), early), before)
    assert not torch.equal(logits(model, with_other_ids(batch, early), late), logits(model, batch, late))
