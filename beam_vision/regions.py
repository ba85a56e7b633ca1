"""Where Google Cloud keeps things: whether what is in a location is near a region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MULTI = {"us": ("us-",), "eu": ("europe-",), "asia": ("asia-",)}
_DUAL = {
    "nam4": ("us-central1", "us-east1"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "asia1": ("asia-northeast1", "asia-northeast2"),
}
"""Predefined dual-regions of Cloud Storage ("Bucket locations")."""


def is_near(region: str, place: Mapping[str, Any]) -> bool:
    """Whether a bucket or a dataset is held in ``region`` too.

    Args:
      region: such as ``us-central1``.
      place: ``location``, and ``customPlacementConfig`` of a dual-region that one chose oneself, as Cloud
        Storage's and BigQuery's JSON APIs give them.
    """
    location = str(place.get("location", "")).lower()
    chosen = place.get("customPlacementConfig", {}).get("dataLocations", ())
    if chosen:
        return region in [str(one).lower() for one in chosen]
    if location in _MULTI:
        return region.startswith(_MULTI[location])
    return region in _DUAL.get(location, (location,))
