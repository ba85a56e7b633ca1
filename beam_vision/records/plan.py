"""What is asked of a run that writes a dataset, and what it decides before it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_vision.records.encode import EncodeSettings
from beam_vision.records.splits import SplitRule


@dataclass(frozen=True)
class DatasetPlan:
    """What a dataset will be.

    Attributes:
      shards: how many each split has.
      classes: the class list; a label's id is its place in it, from 0.
      box_classes: the categories of boxes; the id of one is its place in it, from 1. Empty: no image has a
        box.
    """

    shards: Mapping[str, int]
    classes: Sequence[str]
    box_classes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run was asked for.

    Attributes:
      folder: where the dataset goes.
      rule: how images are split.
      target_shard_bytes: about how large a shard is, in bytes of the images' files.
      settings: how images are stored.
      run_id: this run.
      resume: keep the shards that an earlier run finished and that would come out the same.
      retry_failed: of these, not those that have failures.
      attempt: stands in failures.
      threads: for decoding and encoding; 0: as many as there are cores.
    """

    folder: str
    rule: SplitRule
    target_shard_bytes: int
    settings: EncodeSettings
    run_id: str = ""
    resume: bool = False
    retry_failed: bool = False
    attempt: int = 1
    threads: int = 0
