"""The table of a model before and after: who is compared with whom, and the correction over all."""

from workbench.before_after import Measured, against_first, table, ways
from workbench.compare import compare
from workbench.decodes import Greedy, LabelLikelihood, Majority, Sample
from workbench.prompts import load_prompt
from workbench.stats import holm, wilson_interval
from workbench.types import CostToMake, CostToUse, Model, Outcome, Result, Status, System

SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy(16))


def result(*scores: int) -> Result:
    outcomes = tuple(
        Outcome(str(i), Status.CORRECT if s else Status.WRONG, float(s), "1", "1") for i, s in enumerate(scores)
    )
    counts = tuple((status.value, sum(o.status is status for o in outcomes)) for status in Status)
    score = wilson_interval(sum(scores), len(scores))
    return Result("x", "arithmetic", "h", "dev", score, outcomes, counts, CostToMake(), CostToUse())


def test_one_model_is_asked_in_three_ways() -> None:
    found = ways(SYSTEM, Sample(8, seed=3), 20)
    assert {kind: system.decode for kind, system in found.items()} == {
        "greedy": Greedy(16),
        "one sample": Sample(8, max_tokens=20, seed=3),
        "vote of 8": Majority(8, max_tokens=20, seed=3),
    }
    labels = ways(System(SYSTEM.model, SYSTEM.prompt, LabelLikelihood()), Sample(4, max_tokens=5), 20)
    assert list(labels) == ["likelihood", "one sample", "vote of 4"]
    assert labels["vote of 4"].decode == Majority(4, max_tokens=5)


def test_each_is_compared_with_the_first_of_its_kind_and_corrected_over_all() -> None:
    rows = [
        Measured("before", "greedy", result(*[0] * 10)),
        Measured("before", "vote of 4", result(*[0, 1] * 5)),
        Measured("round 1", "greedy", result(*[1] * 10)),
        Measured("round 1", "vote of 4", result(*[1] * 10)),
    ]
    found = against_first(rows)
    raw = [compare(rows[0].result, rows[2].result).p, compare(rows[1].result, rows[3].result).p]
    assert found[:2] == [None, None]
    assert [c.adjusted_p for c in found if c is not None] == holm(raw)
    text = table(rows, 1)
    assert "| greedy | round 1 | 100.0 % | 72.2 – 100.0 | +100.0 |" in text
    assert "1 system has been looked at" in text and "10 questions of arithmetic, split dev" in text
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert lines[2:] == ["greedy", "greedy", "vote of 4", "vote of 4"], "kinds stand together"
