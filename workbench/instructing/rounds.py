"""What a round of Self-Instruct makes: proposed instructions with their instances, and what became of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.instructing.seeds import Instance
from workbench.made_data import Made


@dataclass
class Proposal:
    """An instruction that the teacher wrote.

    Attributes:
        id: round, request and place in its list.
        text: the instruction.
        round: the first is 1.
        request: id of the request that it answers.
        exemplars: ids of the instructions that the request showed, in their order.
        nearest: id of the instruction most like it in the pool at that moment; empty where it was not compared.
        rouge_l: how like.
        fault: why it was left out; None where it was kept.
        classification: whether it classifies, as the teacher says; None where that was not asked or not answered.
        instances: with why each was left out, None where it was kept; an input that is missing is None.
    """

    id: str
    text: str
    round: int
    request: str
    exemplars: tuple[str, ...]
    nearest: str = ""
    rouge_l: float | None = None
    fault: str | None = None
    classification: bool | None = None
    instances: list[tuple[str | None, str, str | None]] = field(default_factory=list)

    def kept_instances(self) -> list[Instance]:
        """The instances that were kept."""
        return [
            Instance(given, output)
            for given, output, fault in self.instances
            if fault is None and given is not None
        ]

    def as_json(self) -> dict[str, Any]:
        """A line of instructions.jsonl."""
        instances = [{"input": i, "output": o, "kept": f is None, "reason": f} for i, o, f in self.instances]
        return {
            "id": self.id,
            "instruction": self.text,
            "round": self.round,
            "request": self.request,
            "exemplars": list(self.exemplars),
            "nearest": self.nearest,
            "rouge_l": self.rouge_l,
            "kept": self.fault is None,
            "reason": self.fault,
            "is_classification": self.classification,
            "instances": instances,
        }


def counts(proposals: Sequence[Proposal]) -> dict[str, Any]:
    """What became of instructions and instances; reasons by how often they held."""
    kept = [p for p in proposals if p.fault is None]
    instances = [fault for p in proposals for _, _, fault in p.instances]
    return {
        "instructions": len(proposals),
        "kept": len(kept),
        "reasons": _ranked(p.fault for p in proposals if p.fault is not None),
        "classification": sum(p.classification is True for p in kept),
        "other": sum(p.classification is False for p in kept),
        "undecided": sum(p.classification is None for p in kept),
        "with_instances": sum(bool(p.kept_instances()) for p in kept),
        "without_answer": sum(p.classification is not None and not p.instances for p in kept),
        "instances": len(instances),
        "kept_instances": sum(fault is None for fault in instances),
        "instance_reasons": _ranked(fault for fault in instances if fault is not None),
    }


def counted(number: int, noun: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def without_instances(found: Mapping[str, Any]) -> str:
    """Why instructions that were kept have no instance, each reason with its count, of what `counts` gives."""
    unsaid, unread = found["undecided"], found["without_answer"]
    faulty = found["kept"] - found["with_instances"] - unsaid - unread
    return (
        f"{unsaid:,} where the teacher did not say whether they classify, {unread:,} without an instance that "
        f"could be read, {faulty:,} with none that passed the filters"
    )


def examples(made: Sequence[Proposal], teacher: Mapping[str, Any], run: str) -> list[Made]:
    """The data set: an example is an instruction, its input behind an empty line, and the output.

    Args:
        made: every proposal, in the order in which they were written.
        teacher: the model's identity: no path of this machine is in it.
        run: the run's id.
    """
    rows = []
    for p in made:
        source: dict[str, Any] = {
            "method": "self-instruct",
            "teacher": dict(teacher),
            "run": run,
            "instruction": p.id,
        }
        source |= {"round": p.round, "request": p.request, "exemplars": list(p.exemplars)}
        source |= {"nearest": p.nearest, "rouge_l": p.rouge_l, "is_classification": p.classification}
        for place, instance in enumerate(p.kept_instances(), start=1):
            prompt = f"{p.text}\n\n{instance.input}" if instance.input else p.text
            rows.append(Made(f"{p.id}-{place}", prompt, instance.output, source))
    return rows


def _ranked(reasons: Any) -> Mapping[str, int]:
    return dict(sorted(Counter[str](reasons).items(), key=lambda pair: (-pair[1], pair[0])))
