"""Which procedure a stepwise decode is; the harness asks through this."""

from workbench.decoding.beam_search import search
from workbench.decoding.best_of_n import Scorer
from workbench.decoding.budget_forcing import force_budget
from workbench.decoding.revision import revise
from workbench.decoding.steps import Read, Stages, Stepped
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision


def run_steps(
    decode: BeamSearch | Revision | BudgetForcing, stages: Stages, read: Read, scorer: Scorer | None = None
) -> Stepped:
    """One answer a question.

    Args:
        decode: how it is come by.
        stages: the questions.
        read: tells an answer, for a vote.
        scorer: the reward model that a beam search may name, ready.

    Raises:
        UserError: as the decode's own function.
    """
    if isinstance(decode, BeamSearch):
        return search(decode, stages, read, scorer)
    if isinstance(decode, Revision):
        return revise(decode, stages, read)
    return force_budget(decode, stages)
