"""A run that stops in the middle of its training, for tests of what goes on where it stopped."""

from typing import Any

from workbench.runs import Run


class StoppingRun(Run):
    """Stops as Ctrl-C does when the update `stop` has been written down; None stops nothing."""

    stop: int | None = None

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == self.stop and "loss" in metrics:
            raise KeyboardInterrupt
