"""The terminal's table, the advice on constructed cases, and the page as text."""

import html
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.report import Rung, advice, amount, duration, p_value, quantity, ratio, remarks, table
from workbench.report_html import ChangedExample, visible, write_html
from workbench.stats import wilson_interval
from workbench.types import CostToMake, CostToUse, Outcome, Result, Status, text_hash

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "![x](http://evil.test/x.png) [y](javascript:alert(1)) </textarea></style>{{ 7 * 7 }}"
    "\x00\x1b[31m\u202egnp.exe\ud800"
)


def rung(
    name: str,
    right: list[bool],
    *,
    flops: float | None = 1e9,
    tokens: tuple[float, float] = (100, 10),
    make: CostToMake | None = None,
    misses: dict[Status, int] | None = None,
    **changes: object,
) -> Rung:
    """A rung with these answers; `misses` turns the first wrong ones into other kinds of failure."""
    left = dict(misses or {})
    outcomes = []
    for i, good in enumerate(right):
        status = Status.CORRECT if good else next((s for s, n in left.items() if n), Status.WRONG)
        if left.get(status):
            left[status] -= 1
        score = None if status is Status.ERROR else float(good)
        outcomes.append(Outcome(f"q{i}", status, score, "7" if good else "8", "7"))
    counts = tuple((s.value, sum(o.status is s for o in outcomes)) for s in Status)
    answered = sum(o.score is not None for o in outcomes)
    result = Result(
        system=text_hash(name),
        task="arithmetic",
        task_hash="0" * 16,
        split="test",
        score=wilson_interval(sum(right), answered),
        outcomes=tuple(outcomes),
        counts=counts,
        cost_to_make=make or CostToMake(),
        cost_to_use=CostToUse(*tokens, flops, 0.02),
    )
    return Rung(name, replace(result, **changes))  # type: ignore[arg-type]


def answers(share: float, n: int = 150, like: list[bool] | None = None, seed: int = 0) -> list[bool]:
    """n answers with `share` of them right; with `like`, as few as possible differ from those."""
    rng = random.Random(seed)
    right = list(like) if like else [rng.random() < share for _ in range(n)]
    order = list(range(n))
    rng.shuffle(order)
    for i in order:
        gap = round(share * n) - sum(right)
        if gap and right[i] != (gap > 0):
            right[i] = gap > 0
    for i, j in zip(order[: n // 20], order[-(n // 20) :], strict=True):  # some change both ways
        right[i], right[j] = right[j], right[i]
    return right


def six_rungs() -> list[Rung]:
    """A ladder as it might come out on the embedded model."""
    zero = answers(0.313, seed=1)
    few = answers(0.387, like=zero, seed=2)
    knn = answers(0.447, like=few, seed=3)
    vote = answers(0.507, like=knn, seed=4)
    lora = answers(0.613, like=knn, seed=5)
    both = answers(0.64, like=lora, seed=6)
    trained = CostToMake(412_000, 2.22e14, 214.0, 1_900_000_000, 3.86, "estimated at 65 W", 2_442_240)
    found = [
        rung(
            "zero-shot",
            zero,
            flops=1.34e10,
            tokens=(38, 9),
            misses={Status.UNPARSABLE: 11, Status.TRUNCATED: 3},
        ),
        rung("few-shot, random", few, flops=6.2e10, tokens=(212, 6), misses={Status.UNPARSABLE: 2}),
        rung(
            "few-shot, kNN",
            knn,
            flops=6.3e10,
            tokens=(215, 6),
            make=CostToMake(seconds=2.1),
            misses={Status.ERROR: 1},
        ),
        rung("majority vote of 16", vote, flops=1.12e11, tokens=(215, 97), misses={Status.UNPARSABLE: 1}),
        rung("LoRA", lora, flops=1.36e10, tokens=(38, 8), make=trained),
        rung(
            "LoRA + majority vote of 16",
            both,
            flops=4.9e10,
            tokens=(38, 131),
            make=trained,
            misses={Status.TRUNCATED: 2},
        ),
    ]
    found[2] = Rung(found[2].name, replace(found[2].result, notes=("1 request failed and was left out.",)))
    found[3] = replace(found[3], one_sample=wilson_interval(61, 150))
    found[5] = replace(found[5], one_sample=wilson_interval(89, 150))
    return found


def six_examples() -> list[ChangedExample]:
    cot = "First 17 − 5 = 12.\nThen 12 × 3 = 36.\nSo the answer is 36."
    return [
        ChangedExample(
            "What is (17 - 5) * 3?", "36", "few-shot, kNN", "The answer is 17 - 15 = 2", "36", "mended"
        ),
        ChangedExample("What is 48 / 6 + 7?", "15", "few-shot, kNN", "15", "8", "broken"),
        ChangedExample("What is (17 - 5) * 3?", "36", "LoRA", "The answer is 17 - 15 = 2", cot, "mended"),
        ChangedExample("What is 9 + 8 - 4?", "13", "LoRA", "9 + 8 - 4 = 9 + 4 = 13.", "13", "mended"),
        ChangedExample("What is 81 - 27?", "54", "LoRA", "54", "64", "broken"),
        ChangedExample("What is 7 * 13?", "91", "LoRA + majority vote of 16", "7 * 13 = 21", "91", "mended"),
    ]


def write_six(path: Path, examples: list[ChangedExample] | None = None, title: str = "Ladder") -> None:
    write_html(
        path,
        title,
        six_rungs(),
        looks=6,
        examples=six_examples() if examples is None else examples,
        model="smollm2-135m-instruct",
        command="workbench ladder --task arithmetic --model smollm2-135m-instruct --questions 150",
        versions={"llm-workbench": "0.1.0", "torch": "2.13.0", "transformers": "5.16.1", "python": "3.11.2"},
    )


# --- the table --------------------------------------------------------------------------------------


def test_the_table_shows_every_number_of_a_rung() -> None:
    text = table(six_rungs(), looks=6)
    lines = text.splitlines()
    vote = next(line for line in lines if line.lstrip().startswith("majority vote of 16"))
    assert vote.split()[4:] == [
        "50.7",
        "%",
        "42.7",
        "–",
        "58.6",
        "40.7",
        "%",
        "(33.1",
        "–",
        "48.7)",
        "<0.001",
        "76",
        "73",
        "1",
        "0",
        "0",
    ]
    lora = [line for line in lines if line.lstrip().startswith("LoRA ") and "majority" not in line][1]
    made, used = ("3 min 34 s", "2,442,240", "412 k", "222 T", "3.86"), ("0.02 s", "38 + 8", "13.6 G")
    for part in (*made, *used, text_hash("LoRA")):
        assert part in lora
    for part in ("150 questions", "6 systems have been looked at", "exact McNemar", "four times in five"):
        assert part in text
    assert "Energy of LoRA, LoRA + majority vote of 16: estimated at 65 W." in text
    assert "few-shot, kNN: 1 request failed" in text
    assert "\x1b" not in text, "no terminal codes"
    assert all(line == line.rstrip() for line in lines)


def test_extra_metrics_are_shown_where_every_rung_has_them() -> None:
    metrics = (("macro_f1", 0.4321), ("majority_class", 0.6))
    rungs = [rung(name, answers(0.5), metrics=metrics) for name in ("a", "b")]
    assert "0.432" in table(rungs, 2)
    assert "most frequent label would score 60.0 %" in table(rungs, 2)
    assert "macro F1" not in table([rungs[0], rung("c", answers(0.5))], 2)


# --- forgetting -------------------------------------------------------------------------------------


def forgot(change: float, other_p: float | None = None) -> tuple[tuple[str, float], ...]:
    """The metrics of a tuned model that forgot so much, as `forgetting.changes` names them."""
    metrics = {"artifact_bytes": 4_890_000.0, "general_paragraphs": 48.0}
    told = {"general_loss_before": 4.0, "general_loss": 4.0 + change, "forgetting": change}
    if other_p is not None:
        told |= {"other_sums_before": 0.5, "other_sums": 0.4, "other_sums_change": -0.1}
        metrics |= {"other_sums_p": other_p, "other_sums_questions": 100.0}
    for name, value in told.items():
        metrics |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}
    return tuple(metrics.items())


def tuned_rungs() -> list[Rung]:
    made = CostToMake(412_000, 2.22e14, 214.0, 1_900_000_000, 3.86, "estimated at 65 W", 2_442_240)
    right = answers(0.5)
    return [
        rung("zero-shot", right),
        rung("LoRA", right, make=made, metrics=forgot(0.125, 0.02)),
        rung("LoRA + vote", right, make=made, metrics=(("one_sample", 0.5), *forgot(0.125, 0.02))),
        rung("SFT", right, make=made, metrics=forgot(-0.5, 0.0001)),
        rung("unmeasured", right, make=made),
    ]


def test_forgetting_stands_in_the_table_with_its_interval() -> None:
    text = table(tuned_rungs(), 5)
    top, bottom = text.split("to make", 1)
    rows = {line.split("  ")[0].strip(): line for line in top.splitlines()}
    assert "forgetting" in top
    assert "+0.125 (+0.115 to +0.135)" in rows["LoRA"] and "-0.500 (-0.510 to -0.490)" in rows["SFT"]
    assert re.search(r" 0 +\d+ +\d+ +0 +0 +0$", rows["zero-shot"]), "unchanged weights: 0 by construction"
    assert re.search(r"1\.000 +\d+ +\d+ +0 +0 +0$", rows["unmeasured"]), "changed weights: nothing is known"
    assert "artifact" in bottom and bottom.count("4.89 MB") == 3
    plain = table([tuned_rungs()[0], tuned_rungs()[4]], 2)
    assert "forgetting" not in plain and "artifact" not in plain


def test_remarks_on_forgetting_tell_both_losses_and_correct_the_tests_of_other_tasks() -> None:
    found = remarks(tuned_rungs(), 5)
    [loss] = [line for line in found if line.startswith("LoRA, LoRA + vote: the loss")]
    assert "on 48 paragraphs was 4.000 (3.990 – 4.010) before and 4.125 (4.115 – 4.135) after." in loss
    [other] = [line for line in found if line.startswith("LoRA, LoRA + vote: of 100 dev questions of sums")]
    assert "50.0 (49.0 – 51.0) % were right before and 40.0 (39.0 – 41.0) % after, -10.0 (-11.0 to -9.0)" in other
    assert "exact McNemar, Holm's correction, p = 0.020" in other, "two models, two tests: the larger p stays"
    [sft] = [line for line in found if line.startswith("SFT: of 100")]
    assert "p < 0.001" in sft
    assert not any("paragraphs" in line for line in remarks(six_rungs(), 6))


def test_the_page_shows_forgetting_where_it_was_measured(tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", "Tuned", tuned_rungs(), looks=5)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('data-label="forgetting"') == 5 and ">Forgetting</th>" in page
    assert page.count("+0.125 <") == 2 and page.count("+0.115\u00a0to +0.135") == 2
    assert page.count("4.89 MB saved") == 3
    write_six(tmp_path / "six.html")
    assert "orgetting" not in (tmp_path / "six.html").read_text(encoding="utf-8")


def test_names_are_not_markup() -> None:
    assert "[bold]x[/bold] :smile:" in table([rung("[bold]x[/bold] :smile:", answers(0.5))], 1)


def test_a_rung_of_failed_requests_is_shown_and_breaks_nothing() -> None:
    failed = rung("failed", [False] * 150, misses={Status.ERROR: 150})
    rungs = [rung("fine", answers(0.5)), failed]
    assert "150" in table(rungs, 2)
    assert advice(rungs).startswith("Only fine has been measured")
    assert advice([failed]) == "No system has answered a question yet."


# --- the advice -------------------------------------------------------------------------------------


def test_a_tie_goes_to_the_cheaper_system() -> None:
    right = answers(0.5)
    assert advice([rung("dear", right, flops=4e9), rung("cheap", right, flops=1e9)]).startswith(
        "Use cheap: the best"
    )
    flipped = [*right[:-1], not right[-1]] if not right[-1] else [not right[0], *right[1:]]
    better = flipped if sum(flipped) > sum(right) else right
    worse = right if better is flipped else flipped
    line = advice([rung("dear", better, flops=4e9), rung("cheap", worse, flops=1e9)])
    assert line.startswith("Use cheap: ")
    assert "4.0× cheaper to use than the best, dear" in line
    assert "within chance on these 150 questions (p = 1.000)" in line
    assert "It cost nothing to make." in line
    assert "\n" not in line


def test_a_significant_lead_wins_whatever_it_costs() -> None:
    rungs = [
        rung("cheap", [False] * 100 + [True] * 50),
        rung("dear", [True] * 150, flops=1e12, make=CostToMake(seconds=200)),
    ]
    line = advice(rungs)
    assert line.startswith("Use dear: the best system, 100.0 % for 1 TFLOPs a question")
    assert "every cheaper one is significantly worse" in line
    assert line.endswith("It took 3 min 20 s to make.")


def test_unknown_flops_make_tokens_the_cost() -> None:
    right = answers(0.5)
    rungs = [rung("a", right, flops=1.0, tokens=(500, 20)), rung("b", right, flops=None, tokens=(50, 2))]
    assert advice(rungs).startswith("Use b: ")
    assert "52 tokens a question" in advice(rungs)


def test_holm_counts_every_comparison_with_the_best() -> None:
    # Seven discordant pairs, all one way: p = 2/2^7 = .0156, which four comparisons raise to .0625.
    best, worse = [True] * 40, [False] * 7 + [True] * 33
    pair = [rung("best", best, flops=9e9), rung("cheap", worse, flops=1e9)]
    assert advice(pair).startswith("Use best")
    more = [rung(f"cheap {i}", worse, flops=(2 + i) * 1e9) for i in range(3)]
    assert advice([*pair, *more]).startswith("Use cheap: ")


def test_equal_use_is_decided_by_the_cost_to_make() -> None:
    right = answers(0.5)
    rungs = [rung("trained", right, make=CostToMake(seconds=60)), rung("prompted", right)]
    assert advice(rungs).startswith("Use prompted")


def test_numbers_as_text() -> None:
    assert [quantity(v) for v in (None, 0, 876, 999.9, 41.2e9, 2.22e14)] == [
        "?",
        "0",
        "876",
        "1 k",
        "41.2 G",
        "222 T",
    ]
    assert [amount(876, "tokens"), amount(41.2e9, "FLOPs"), amount(4.89e6, "B"), amount(87, "B")] == [
        "876 tokens",
        "41.2 GFLOPs",
        "4.89 MB",
        "87 B",
    ]
    assert [duration(s) for s in (0.8, 42, 200, 7500)] == ["0.8 s", "42 s", "3 min 20 s", "2 h 05 min"]
    assert [ratio(r) for r in (1.34, 16.2)] == ["1.3×", "16×"]
    assert p_value(None) == ""


# --- the page, as text ------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_and_holds_everything(tmp_path: Path) -> None:
    write_six(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"<script|https?://|url\(|@import|\son\w+=", page)
    assert html.escape(advice(six_rungs()), quote=False) in page
    for found in six_rungs():
        assert page.count(html.escape(found.name)) >= 3, "in the table and in both charts"
    assert page.count('<tr role="row">') == 2 + 6
    assert "24 mended" in page
    assert "workbench ladder --task arithmetic" in page


def test_hostile_text_is_inert_everywhere(tmp_path: Path) -> None:
    rungs = [replace(r, name=HOSTILE + r.name) for r in six_rungs()[:2]]
    rungs[1] = replace(rungs[1], result=replace(rungs[1].result, notes=(HOSTILE,), task=HOSTILE))
    rungs[0] = replace(rungs[0], result=replace(rungs[0].result, task=HOSTILE))
    example = ChangedExample(HOSTILE, HOSTILE, rungs[1].name, HOSTILE, HOSTILE, "broken")
    path = tmp_path / "report.html"
    write_html(
        path,
        HOSTILE,
        rungs,
        looks=2,
        examples=[example],
        model=HOSTILE,
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "⟨U+202E⟩" in page
    assert "⟨U+0000⟩⟨U+001B⟩[31m" in page
    assert "⟨U+D800⟩" in page


def test_what_cannot_be_seen_is_made_visible() -> None:
    assert visible("a\tb\nc\r\nd") == "a\tb\nc\nd"
    assert visible("\x00\r\u202e\ud800\ufeff") == "⟨U+0000⟩⟨U+000D⟩⟨U+202E⟩⟨U+D800⟩⟨U+FEFF⟩"
    assert visible("x" * 5_000).endswith("x … (1,000 more characters)")
    assert visible("👩‍👩‍👧 é") == "👩‍👩‍👧 é"


@pytest.mark.parametrize(
    "rungs",
    [
        [rung("one", [True] * 20)],
        [rung("all wrong", [False] * 20), rung("all right", [True] * 20)],
        [rung("no cost", [True] * 5, flops=0.0), rung("failed", [False] * 5, misses={Status.ERROR: 5})],
        [rung("unknown", [True] * 5, flops=None), rung("far", [True] * 5, flops=1e30, tokens=(1e9, 1))],
        [rung(f"a long name for rung number {i}", answers(0.5, seed=i), flops=1e9 + i) for i in range(12)],
    ],
    ids=["one", "extremes", "nothing", "far apart", "crowded"],
)
def test_the_page_can_be_written_for_odd_ladders(tmp_path: Path, rungs: list[Rung]) -> None:
    write_html(tmp_path / "report.html", "Odd", rungs, looks=1)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "nan" not in page.lower().replace("nano", "")
    assert "How to reproduce" not in page


def test_a_tick_at_the_charts_edge_is_not_cut_off(tmp_path: Path) -> None:
    rungs = [rung(str(cost), answers(0.5), flops=cost) for cost in (1.6e10, 1.6e11)]  # an axis up to 2e11
    write_html(tmp_path / "r.html", "Two", rungs, looks=2)
    page = (tmp_path / "r.html").read_text()
    assert 'text-anchor="end">200 G<' in page and 'text-anchor="middle">100 G<' in page


def test_a_crowded_chart_numbers_its_points_and_names_them_below(tmp_path: Path) -> None:
    write_html(tmp_path / "six.html", "Six", six_rungs(), looks=6)
    assert '<ol class="key' not in (tmp_path / "six.html").read_text(encoding="utf-8")
    rungs = [rung(f"a long name for rung {i}", answers(0.5, seed=i), flops=1e9 + i) for i in range(12)]
    write_html(tmp_path / "many.html", "Many", rungs, looks=12)
    page = (tmp_path / "many.html").read_text(encoding="utf-8")
    assert page.count('<ol class="key') == 2
    assert page.count("<li>a long name for rung 11</li>") == 2
