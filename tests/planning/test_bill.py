"""What a job on Dataflow cost."""

import pytest

from beam_vision.planning.bill import cost_of_use
from beam_vision.planning.prices import read_prices

PRICES = read_prices()
USED = {
    "TotalVcpuTime": 8 * 3600.0,
    "TotalMemoryUsage": 32 * 3600.0 * 1000,
    "TotalPdUsage": 50 * 3600.0,
    "BillableShuffleDataProcessed": 10.0,
    "TotalDcuUsage": 7.0,
}


def test_what_was_counted_is_priced_part_by_part():
    cost = cost_of_use(USED, PRICES)
    assert cost["amounts"] == {"vcpu_hours": 8, "memory_gb_hours": 32, "disk_gb_hours": 50, "shuffle_gb": 10}
    expected = 8 * 0.056 + 32 * 0.003557 + 50 * 0.000054 + 10 * 0.011
    assert cost["usd"] == pytest.approx(expected, abs=1e-4)
    assert sum(cost["parts"].values()) == pytest.approx(cost["usd"], abs=1e-4)
    assert (cost["region"], cost["prices_date"]) == (PRICES.region, PRICES.date)


def test_streaming_has_prices_of_its_own():
    assert cost_of_use(USED, PRICES, mode="streaming")["parts"]["vcpu_hours"] == pytest.approx(8 * 0.069)


def test_a_gpu_is_priced_by_its_name_and_without_one_there_is_no_sum():
    used = USED | {"TotalGpuTime": 7200.0}
    assert cost_of_use(used, PRICES, gpu="l4")["parts"]["gpu_hours"] == pytest.approx(2 * 0.672)
    cost = cost_of_use(used, PRICES, gpu="h100")
    assert cost["usd"] is None
    assert cost["why"] == "no price of gpu_hours (GPU h100)"


def test_what_has_no_price_is_named_and_what_was_not_used_needs_none():
    assert cost_of_use(USED | {"TotalSsdUsage": 0.0, "TotalGpuTime": 0.0}, PRICES)["usd"] is not None
    cost = cost_of_use(USED | {"TotalSsdUsage": 3600.0}, PRICES, gpu="l4")
    assert (cost["usd"], cost["why"]) == (None, "no price of ssd_gb_hours")


def test_nothing_counted_is_no_cost_of_zero():
    for used in ({}, dict.fromkeys(USED, 0.0)):
        cost = cost_of_use(used, PRICES)
        assert cost["usd"] is None
        assert "minutes after" in cost["why"]
