"""The rungs of the ladder by name, what fills each one's slots, and the settings of their methods."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.command import Flat
from workbench.decodes import LONGEST, BestOfN, EarlyMajority, Majority, Sample, WeightedVote
from workbench.errors import unknown_name
from workbench.forgetting_flags import Forgetting
from workbench.methods.adapters import Houlsby
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.head import Config as HeadConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.prompt_search import Config as SearchConfig
from workbench.methods.proxy_tuning import Config as ProxyConfig
from workbench.methods.qlora import Config as QloraConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.methods.self_improve import Config as SelfImproveConfig
from workbench.methods.sft import Config as SftConfig
from workbench.methods.soft_prompt import PrefixTuning, PromptTuning
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision

Exemplars = Literal["random", "balanced", "bm25", "embedding", "sentence-transformer"]
Tuned = Literal[
    "prompt-tuning", "prefix-tuning", "adapters", "head", "lora", "qlora", "sft", "self-improve", "dpo", "grpo",
]  # fmt: skip
Scorer = Literal["reward-model", "logprob", "self-certainty", "judge"]
Staged = Literal["beam-search", "diverse-beam-search", "revise", "budget-forcing"]
Drawing = Sample | BeamSearch | Revision | BudgetForcing


@dataclass(frozen=True)
class Slots:
    """What fills a rung's slots; what is not said leaves the setup's own prompt, model or decode.

    Attributes:
        steps: the prompt asks for steps before the answer.
        searched: the prompt's instruction comes from prompt search.
        exemplars: the prompt shows some.
        tuned: the model is tuned in this way.
        calibrated: labels are scored with contextual calibration.
        vote: the answer is a majority's.
        early: the vote draws no more samples than it needs.
        steered: the model is steered by what tuning a LoRA changed.
        scorer: the answer is the sample that this likes best; a reward model is made for it.
        weighted: the answer is the one whose samples' scores add up to the most.
        staged: the answer comes about in stages, in this way.
    """

    steps: bool = False
    searched: bool = False
    exemplars: Exemplars | None = None
    tuned: Tuned | None = None
    calibrated: bool = False
    vote: bool = False
    early: bool = False
    steered: bool = False
    scorer: Scorer | None = None
    weighted: bool = False
    staged: Staged | None = None


RUNGS = {
    "zero-shot": Slots(),
    "zero-shot-calibrated": Slots(calibrated=True),
    "chain-of-thought": Slots(steps=True),
    "chain-of-thought-majority-vote": Slots(steps=True, vote=True),
    "few-shot-random": Slots(exemplars="random"),
    "few-shot-random-calibrated": Slots(exemplars="random", calibrated=True),
    "few-shot-balanced": Slots(exemplars="balanced"),
    "few-shot-balanced-calibrated": Slots(exemplars="balanced", calibrated=True),
    "few-shot-knn": Slots(exemplars="bm25"),
    "few-shot-knn-calibrated": Slots(exemplars="bm25", calibrated=True),
    "few-shot-embedding": Slots(exemplars="embedding"),
    "few-shot-sentence-transformer": Slots(exemplars="sentence-transformer"),
    "majority-vote": Slots(vote=True),
    "majority-vote-early": Slots(vote=True, early=True),
    "weighted-vote": Slots(scorer="logprob", weighted=True),
    "few-shot-majority-vote": Slots(exemplars="random", vote=True),
    "prompt-search": Slots(searched=True),
    "prompt-search-majority-vote": Slots(searched=True, vote=True),
    "prompt-tuning": Slots(tuned="prompt-tuning"),
    "prompt-tuning-majority-vote": Slots(tuned="prompt-tuning", vote=True),
    "prefix-tuning": Slots(tuned="prefix-tuning"),
    "prefix-tuning-majority-vote": Slots(tuned="prefix-tuning", vote=True),
    "adapters": Slots(tuned="adapters"),
    "head": Slots(tuned="head"),
    "lora": Slots(tuned="lora"),
    "lora-majority-vote": Slots(tuned="lora", vote=True),
    "proxy-tuning": Slots(steered=True),
    "qlora": Slots(tuned="qlora"),
    "sft": Slots(tuned="sft"),
    "sft-majority-vote": Slots(tuned="sft", vote=True),
    "self-improve": Slots(tuned="self-improve"),
    "self-improve-majority-vote": Slots(tuned="self-improve", vote=True),
    "dpo": Slots(tuned="dpo"),
    "dpo-majority-vote": Slots(tuned="dpo", vote=True),
    "grpo": Slots(tuned="grpo"),
    "grpo-majority-vote": Slots(tuned="grpo", vote=True),
    "best-of-n": Slots(scorer="reward-model"),
    "best-of-n-logprob": Slots(scorer="logprob"),
    "best-of-n-self-certainty": Slots(scorer="self-certainty"),
    "best-of-n-judge": Slots(scorer="judge"),
    "beam-search": Slots(staged="beam-search"),
    "diverse-beam-search": Slots(staged="diverse-beam-search"),
    "revise": Slots(staged="revise"),
    "budget-forcing": Slots(staged="budget-forcing"),
}

DEFAULT = ("zero-shot", "few-shot-random", "few-shot-knn", "majority-vote", "lora", "lora-majority-vote")
DEFAULTS = {
    "phrasebank": ("zero-shot", "few-shot-knn", "lora"),
    "gsm8k": ("zero-shot", "few-shot-random", "majority-vote"),
}


@dataclass(frozen=True)
class Config:
    """Which rungs, and the settings of the methods that they use.

    Attributes:
        rungs: of zero-shot, chain-of-thought, few-shot-random, few-shot-balanced, few-shot-knn,
            few-shot-embedding, few-shot-sentence-transformer, prompt-search, prompt-tuning, prefix-tuning,
            adapters, lora, proxy-tuning, qlora, sft, self-improve, dpo, grpo; with labels head,
            zero-shot-calibrated, few-shot-random-calibrated, few-shot-balanced-calibrated,
            few-shot-knn-calibrated; voting:
            majority-vote, majority-vote-early, weighted-vote, chain-of-thought-majority-vote,
            few-shot-majority-vote, prompt-search-majority-vote,
            prompt-tuning-majority-vote, prefix-tuning-majority-vote, lora-majority-vote, sft-majority-vote,
            self-improve-majority-vote, dpo-majority-vote, grpo-majority-vote; chosen by a reward model or by the
            model itself: best-of-n, best-of-n-logprob, best-of-n-self-certainty, best-of-n-judge; in stages:
            beam-search, diverse-beam-search, revise, budget-forcing. The first is the baseline; by default a set
            that suits the task.
        estimate_only: print the estimate and stop.
        few_shot: exemplars; which ones is said by the rung.
        prompt_search: the rung prompt-search.
        prompt_tuning: the rung prompt-tuning.
        prefix_tuning: the rung prefix-tuning.
        adapters: the rung adapters.
        head: the rung head.
        lora: the rungs lora.
        proxy_tuning: the rung proxy-tuning, whose expert is the LoRA of the rungs lora.
        qlora: the rung qlora.
        sft: the rungs sft.
        self_improve: the rungs self-improve.
        dpo: the rungs dpo.
        grpo: the rungs grpo.
        best_of_n: the reward model of the rung best-of-n, whose samples are those of the voting rungs.
        vote: the voting rungs, and the samples of those that choose.
        early_stop: when the rung majority-vote-early stops: certain, or a confidence above 0.5.
        beam_search: the rungs beam-search and diverse-beam-search.
        revise: the rung revise.
        budget_forcing: the rung budget-forcing.
        forgetting: of every tuned model.

    Raises:
        UserError: a rung does not exist, or `early_stop` is out of range.
    """

    rungs: tuple[str, ...] = ()
    estimate_only: bool = False
    few_shot: Flat[FewShotConfig] = field(default_factory=FewShotConfig)
    prompt_search: SearchConfig = field(default_factory=SearchConfig)
    prompt_tuning: PromptTuning = field(default_factory=PromptTuning)
    prefix_tuning: PrefixTuning = field(default_factory=PrefixTuning)
    adapters: Houlsby = field(default_factory=Houlsby)
    head: HeadConfig = field(default_factory=HeadConfig)
    lora: Flat[LoraConfig] = field(default_factory=LoraConfig)
    proxy_tuning: ProxyConfig = field(default_factory=ProxyConfig)
    qlora: QloraConfig = field(default_factory=QloraConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    self_improve: SelfImproveConfig = field(default_factory=SelfImproveConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    best_of_n: RewardConfig = field(default_factory=RewardConfig)
    vote: Flat[Majority] = field(default_factory=Majority)
    early_stop: Literal["certain"] | float = "certain"
    beam_search: BeamSearch = field(default_factory=BeamSearch)
    revise: Revision = field(default_factory=Revision)
    budget_forcing: BudgetForcing = field(default_factory=BudgetForcing)
    forgetting: Flat[Forgetting] = field(default_factory=Forgetting)

    def __post_init__(self) -> None:
        for name in self.rungs:
            if name not in RUNGS:
                raise unknown_name("rung", name, RUNGS)
        EarlyMajority(stop=self.early_stop)  # refuses what is out of range before anything is done

    def tuning(self, how: Tuned) -> Any:
        """The settings of a way of tuning: the field of its name."""
        return getattr(self, how.replace("-", "_"))

    def decode(self, slots: Slots) -> Drawing | None:
        """How a rung's answers come about; None leaves the setup's own decode.

        A reward model's folder is filled in when it is made.
        """
        decode: Drawing
        if slots.staged == "diverse-beam-search":
            decode = replace(self.beam_search, diverse=True)
        elif slots.staged is not None:
            decode = getattr(self, slots.staged.replace("-", "_"))
        elif slots.scorer is not None:
            kind = WeightedVote if slots.weighted else BestOfN
            decode = kind(**vars(self.vote), scorer="" if slots.scorer == "reward-model" else slots.scorer)
        elif slots.vote:
            decode = EarlyMajority(**vars(self.vote), stop=self.early_stop) if slots.early else self.vote
        else:
            return None
        return replace(decode, max_tokens=LONGEST) if slots.steps and decode.max_tokens is None else decode
