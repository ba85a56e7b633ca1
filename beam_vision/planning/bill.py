"""What a job on Dataflow cost, from what the service counted, at list prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_vision.planning.prices import Prices

HOUR_SEC = 3600
USED = {
    "TotalVcpuTime": ("vcpu_hours", 1 / HOUR_SEC),
    "TotalMemoryUsage": ("memory_gb_hours", 1 / 1000 / HOUR_SEC),
    "TotalPdUsage": ("disk_gb_hours", 1 / HOUR_SEC),
    "TotalSsdUsage": ("ssd_gb_hours", 1 / HOUR_SEC),
    "TotalGpuTime": ("gpu_hours", 1 / HOUR_SEC),
    "BillableShuffleDataProcessed": ("shuffle_gb", 1),
}
"""The service's own metrics: the amount's name here, and what one of its units is of ours. The service tells
the units in each metric's ``original_name``: ``Service-cpu_num_seconds``, ``Service-mem_mb_seconds``,
``Service-pd_gb_seconds``, ``Service-pd_ssd_gb_seconds``, ``Service-shuffle_service_chargeable_gb``."""


def cost_of_use(
    used: Mapping[str, float], prices: Prices, *, gpu: str = "", mode: str = "batch"
) -> dict[str, Any]:
    """What a job cost.

    Args:
      used: the service's metrics of the job by name, as in :data:`USED`; others are left out.
      prices: of an hour and a GB.
      gpu: the short name of the workers' GPU; its hours are priced by it.
      mode: ``batch`` or ``streaming``.

    Returns:
      ``amounts`` used, ``parts`` of the sum, the sum under the currency's name in small letters (None where
      the price of something used isn't known, and then ``why``), the prices' ``region`` and ``prices_date``.
    """
    amounts = {name: round(used[key] * unit, 6) for key, (name, unit) in USED.items() if key in used}
    hour = {
        "vcpu_hours": prices.vcpu_hour[mode],
        "memory_gb_hours": prices.memory_gb_hour[mode],
        "disk_gb_hours": prices.disk_gb_hour,
        "ssd_gb_hours": None,  # the price table has no price of them
        "gpu_hours": prices.gpu_hour.get(gpu),
        "shuffle_gb": prices.shuffle_gb[mode],
    }
    parts = {name: round(n * price, 6) for name, n in amounts.items() if (price := hour[name]) is not None}
    unknown = [name for name, n in amounts.items() if n and name not in parts]
    total = None if unknown or not any(amounts.values()) else round(sum(parts.values()), 4)
    facts: dict[str, Any] = {prices.currency.lower(): total, "parts": parts, "amounts": amounts}
    facts |= {"region": prices.region, "prices_date": prices.date}
    if unknown:
        which = f" (GPU {gpu or 'not named'})" if "gpu_hours" in unknown else ""
        facts["why"] = f"no price of {', '.join(unknown)}{which}"
    elif total is None:
        facts["why"] = "the service had counted nothing yet; its figures come some minutes after a job's end"
    return facts
