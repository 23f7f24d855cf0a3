"""Costs: the papers' own numbers, sums against loops, and both sources of energy."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import cost
from workbench.cost import EnergyMeter, ModelShape
from workbench.errors import UserError

SMOLLM2 = ModelShape(134_515_008, layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64)
GPT3 = ModelShape(175_000_000_000, layers=96, hidden=12288, heads=96, kv_heads=96, head_dim=128)


def test_gpt3_took_3_15e23_flops():
    assert cost.training_flops(GPT3, 300e9) == pytest.approx(3.15e23)


def test_frozen_weights_save_their_gradients():
    assert cost.training_flops(SMOLLM2, 1000, frozen_weights=True) == 4 * 134_515_008 * 1000


def test_kv_cache_of_the_embedded_model_is_23040_bytes_a_token():
    assert cost.kv_cache_bytes(SMOLLM2, 1) == 23_040
    assert cost.kv_cache_bytes(SMOLLM2, 100, bytes_per_value=4) == 4_608_000


def test_chinchilla_at_its_own_size():
    assert cost.chinchilla_loss(70e9, 1.4e12) == pytest.approx(1.93665, abs=1e-5)


def test_gpt3_carbon():
    assert cost.carbon_kg(1287e6) == pytest.approx(552_000, rel=1e-4)
    assert cost.carbon_kg(1000) == 0.4289
    assert cost.carbon_kg(1000, grid_kg_per_kwh=0.1, pue=1.5) == pytest.approx(0.15)


def test_money_is_hours_times_price():
    assert cost.money(1800, price_per_hour=3.0) == 1.5


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5))
def test_inference_flops_equal_a_loop_over_tokens(prompt, completion, samples):
    def token(context):
        return 2 * 134_515_008 + 4 * 30 * 9 * 64 * context

    expected = sum(token(t) for t in range(1, prompt + 1))
    expected += samples * sum(token(t) for t in range(prompt + 1, prompt + completion + 1))
    assert cost.inference_flops(SMOLLM2, prompt, completion, samples) == pytest.approx(expected)


def test_one_prompt_serves_its_samples():
    one, eight = (cost.inference_flops(SMOLLM2, 100, 20, n) for n in (1, 8))
    assert eight - one == pytest.approx(7 * (one - cost.inference_flops(SMOLLM2, 100, 0)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: cost.inference_flops(SMOLLM2, -1, 5),
        lambda: cost.inference_flops(SMOLLM2, 1, float("nan")),
        lambda: cost.training_flops(SMOLLM2, float("inf")),
        lambda: cost.carbon_kg(1, pue=0.5),
        lambda: cost.chinchilla_loss(0, 1),
        lambda: ModelShape(1, 1, 1, 1, 0, 1),
        lambda: EnergyMeter(watts=-1),
    ],
)
def test_impossible_numbers_are_refused(call):
    with pytest.raises(UserError):
        call()


# --- the meter --------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


def fake_nvml(joules_by_board, step=0.0):
    """A pynvml whose boards have used so much, and `step` joules more at every reading."""
    used = dict(joules_by_board)

    def read(board):
        if board not in used:
            raise NVMLError(f"no board {board}")
        used[board] += step
        return int(used[board] * 1000)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(used),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-b": 1}[uuid],
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that is an hour on at every look, and no torch and no visible-devices variable."""
    hours = iter(range(100))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: 3600.0 * next(hours))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)


def no_driver():
    raise NVMLError("driver not loaded")


@pytest.mark.parametrize("nvml", [None, SimpleNamespace(NVMLError=NVMLError, nvmlInit=no_driver)])
def test_energy_is_estimated_where_there_is_no_counter(monkeypatch, clock, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with EnergyMeter() as meter:
        pass
    assert (meter.seconds, meter.watt_hours, meter.source) == (3600.0, 65.0, "estimated at 65 W")
    with EnergyMeter(watts=12.5) as meter:
        pass
    assert (meter.watt_hours, meter.source) == (12.5, "estimated at 12.5 W")


@pytest.mark.parametrize(
    ("visible", "watt_hours"), [(None, 2.0), ("0", 1.0), ("GPU-b", 1.0), ("1, 0", 2.0), ("0,-1", 1.0)]
)
def test_energy_is_the_visible_gpus_counters_difference(monkeypatch, clock, visible, watt_hours):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({0: 5e6, 1: 7e6}, step=3600))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with EnergyMeter() as meter:
        pass
    assert meter.watt_hours == pytest.approx(watt_hours)
    assert meter.source == "nvml counter"


@pytest.mark.parametrize("visible", ["", "-1", "3"])
def test_no_visible_gpu_means_an_estimate(monkeypatch, clock, visible):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({0: 5e6}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with EnergyMeter() as meter:
        pass
    assert meter.source == "estimated at 65 W"


def test_peak_memory_without_a_gpu_is_the_resident_set(clock):
    with EnergyMeter() as meter:
        held = bytearray(b"x") * 30_000_000
    assert len(held) < meter.peak_memory_bytes < 10**11


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others do not tell it")
def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    held = bytearray(b"x") * 300_000_000
    code = "from workbench.cost import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held) / 2


def test_peak_memory_on_gpus_is_torchs_own_and_starts_anew(monkeypatch, clock):
    peaks = {0: 999, 1: 999}
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        reset_peak_memory_stats=lambda device: peaks.update({device: 0}),
        max_memory_allocated=lambda device: peaks[device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with EnergyMeter() as meter:
        peaks[0] += 30
        peaks[1] += 12
    assert meter.peak_memory_bytes == 42


def test_a_failed_block_is_measured_and_its_error_passes(monkeypatch, clock):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = EnergyMeter()
    with pytest.raises(ValueError, match="as it was"), meter:
        raise ValueError("as it was")
    assert meter.seconds == 3600.0
