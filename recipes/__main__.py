"""The command line: `workbench <recipe> [flags]`. Each recipe's flags are the fields of its Config.

To add a recipe: a file with `Config` and `main`, and a line here.
"""

import sys
from importlib import import_module

RECIPES = {
    # name: (module, what it does)
    "quickstart": ("recipes.quickstart", "the ladder on the embedded model and task, with nothing to set"),
    "ladder": ("recipes.ladder", "several ways of adapting one model to one task, in one table"),
    "zero_shot": ("recipes.zero_shot", "the prompt alone"),
    "few_shot": ("recipes.few_shot", "exemplars in the prompt: random, balanced or nearest neighbours"),
    "majority_vote": ("recipes.majority_vote", "several samples a question, the most frequent answer wins"),
    "pass_at_k": ("recipes.pass_at_k", "one pool, four curves over k: pass, majority, best-of, weighted"),
    "compute_optimal": ("recipes.compute_optimal", "samples by how hard a question looks, against one for all"),
    "prompt_sensitivity": ("recipes.prompt_sensitivity", "how far seeds, orders or wordings move the score"),
    "prompt_search": ("recipes.prompt_search", "find an instruction: proposed, scored on dev, resampled (APE)"),
    "prompt_tuning": ("recipes.prompt_tuning", "learn a few virtual tokens' embeddings, the model frozen"),
    "prefix_tuning": ("recipes.prefix_tuning", "learn a few virtual tokens' keys and values in every layer"),
    "sft": ("recipes.sft", "train all weights on the task's practice split, and measure the model"),
    "lora": ("recipes.lora", "tune a LoRA adapter on the task's practice split, and measure it"),
    "qlora": ("recipes.qlora", "tune a LoRA adapter on a base in 4 bits (NF4), and measure it"),
    "adapters": ("recipes.adapters", "tune bottleneck adapters (Houlsby) in every layer, and measure them"),
    "bitfit": ("recipes.bitfit", "tune a model's biases alone, and measure it"),
    "head": ("recipes.head", "a classification head: alone, or with all weights behind it"),
    "self_instruct": ("recipes.self_instruct", "a model writes instructions and answers them, as data to tune on"),
    "distill": ("recipes.distill", "a teacher's worked answers that the grader finds right, as data to tune on"),
    "backtranslate": ("recipes.backtranslate", "instructions for your texts, written and graded by a model"),
    "self_improve": ("recipes.self_improve", "a model learns the answers that it agrees on (LMSI), in rounds"),
    "dpo": ("recipes.dpo", "learn from pairs of a better and a worse answer: DPO, IPO, KTO and their kin"),
    "grpo": ("recipes.grpo", "learn from the grades of a model's own answers, and measure it"),
    "preferences": (
        "recipes.preferences",
        "pairs from a verifier, a judge, a constitution, votes, files",
    ),
    "reward_model": ("recipes.reward_model", "learn from pairs which answer is better; measured on held-out ones"),
    "best_of_n": ("recipes.best_of_n", "a scorer chooses among n samples; beside it chance and votes"),
    "weighted_vote": ("recipes.weighted_vote", "several samples a question, the answer with the most score wins"),
    "proxy_tuning": ("recipes.proxy_tuning", "a model steered as it decodes by what tuning did to another"),
    "beam_search": ("recipes.beam_search", "steps searched with a scorer; beside it votes of as many tokens"),
    "revise": ("recipes.revise", "critique and revise, k rounds; beside it votes of as many tokens"),
    "budget_forcing": ("recipes.budget_forcing", "longer or shorter thinking; beside it votes of as many tokens"),
    "sweep": ("recipes.sweep", "a tuning method at several learning rates and ranks, judged on dev"),
    "preview": ("recipes.preview", "training examples as the model sees them, with what is learned"),
    "quantization": ("recipes.quantization", "memory and perplexity of a model in bfloat16, int8, NF4 and int4"),
    "quantize": ("recipes.quantize", "a model as quantised weights, for the engine hf, vLLM or llama.cpp"),
    "adapter": ("recipes.adapter", "merge an adapter into its base, unmerge it, or remove it from a System"),
    "publish": ("recipes.publish", "a run's model as a folder for the Hub, sent there on request"),
    "evaluate": ("recipes.evaluate", "measure any System: a run's, or a system.json"),
    "sample": ("recipes.sample", "n answers to every prompt of a file, into a JSONL file"),
    "chat": ("recipes.chat", "talk with a model in the terminal"),
    "ui": ("recipes.ui", "a page in the browser: chat, compare, vote blind, watch runs, start recipes"),
    "compare": ("recipes.compare", "two or more runs on the questions they share, with paired tests"),
    "parity": ("recipes.parity", "whether a model merged, served or quantised is what was trained"),
    "serve": ("recipes.serve", "a vLLM server of a model and its adapters: start, status, reload, stop"),
    "export": ("recipes.export", "the store's completions or runs' outcomes as JSONL, CSV or Parquet"),
    "runs": ("recipes.runs", "list the runs"),
    "models": ("recipes.models", "list the models that are at hand"),
    "tasks": ("recipes.tasks", "list the tasks and their settings"),
    "prompts": ("recipes.prompts", "list the prompts; `prompts show NAME` renders one on a real example"),
    "doctor": ("recipes.doctor", "what this machine has, what would not work, and the mend"),
}


def main() -> None:
    """The console script `workbench`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else 2)
    name, rest = arguments[0].replace("-", "_"), arguments[1:]

    from workbench.command import run_command
    from workbench.errors import unknown_name

    if name not in RECIPES:
        print(
            f"workbench: {unknown_name('recipe', arguments[0], RECIPES, '`workbench --help` tells.')}",
            file=sys.stderr,
        )
        sys.exit(2)
    module = import_module(RECIPES[name][0])
    sys.exit(run_command(module.main, module.Config, rest, f"workbench {name}"))


def _help() -> str:
    width = max(map(len, RECIPES))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in RECIPES.items()]
    return "\n".join(
        ["usage: workbench <recipe> [--help] [flags]", "", "Prompt it, tune it or sample from it?", "", *lines, ""]
    )


if __name__ == "__main__":
    main()
