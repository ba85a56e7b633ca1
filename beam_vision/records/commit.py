"""The end of a run that writes a dataset: everything is checked, and the manifest written last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.records import label_map, schema
from beam_vision.records.layout import (
    ANNOTATION_FAILURES,
    ANNOTATION_PART,
    LABEL_MAP,
    MANIFEST,
    SCHEMA,
    remove_orphans,
    shard_names,
)
from beam_vision.records.manifest import DatasetManifest, dataset_digest, summarise
from beam_vision.records.observe import Observed
from beam_vision.records.plan import DatasetPlan, Job
from beam_vision.records.shard import ShardInfo


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a run has done by its end.

    Attributes:
      infos: the shards.
      observed: what TFXIO read from them.
      problems: what is wrong with them.
      inputs: images that came in.
      failed_by_reason: images in the dead letter.
    """

    infos: Sequence[ShardInfo]
    observed: Observed
    problems: Sequence[str]
    inputs: int
    failed_by_reason: Mapping[str, int]


def commit(job: Job, plan: DatasetPlan, found: Found) -> DatasetManifest | None:
    """Checks the accounts and the records, removes what an earlier plan left, writes all but the shards, the
    manifest last.

    Doing it again gives the same.

    Returns:
      The manifest; None, and nothing is written, when not one image came through.

    Raises:
      JobError: images are unaccounted for, or the records aren't what was to be written.
    """
    manifest = _manifest(job, plan, found)
    _check(plan, found, manifest)
    if not manifest.images:
        return None
    remove_orphans(job.folder, shard_names(plan.shards), label_map=bool(plan.box_classes))
    features = schema.build(plan.classes, box_classes=plan.box_classes)
    storage.write_bytes(storage.join(job.folder, SCHEMA), schema.to_text(features).encode())
    if plan.box_classes:
        text = label_map.to_text(plan.box_classes)
        storage.write_bytes(storage.join(job.folder, LABEL_MAP), text.encode())
    _write_annotation_failures(job, found.infos)
    storage.write_json(storage.join(job.folder, MANIFEST), manifest.to_json())
    return manifest


def _write_annotation_failures(job: Job, infos: Sequence[ShardInfo]) -> None:
    """Those of all shards, sorted, as JSON lines; this run reports them, whichever run wrote the shard."""
    found = sorted(
        (failure for info in infos for failure in info.annotation_failures),
        key=lambda failure: (failure.key, failure.uri, failure.reason, failure.detail),
    )
    folder = storage.join(job.folder, ANNOTATION_FAILURES)
    if not found:
        storage.delete_folder(folder)
        return
    own = (asdict(replace(failure, run_id=job.run_id, attempt=job.attempt)) for failure in found)
    lines = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in own)
    storage.write_bytes(storage.join(folder, ANNOTATION_PART), lines.encode())


def _manifest(job: Job, plan: DatasetPlan, found: Found) -> DatasetManifest:
    infos = found.infos
    splits = {split: summarise(split, infos, plan.classes, plan.box_classes) for split in plan.shards}
    reasons = Counter(failure.reason for info in infos for failure in info.annotation_failures)
    return DatasetManifest(
        run_id=job.run_id,
        dataset_digest=dataset_digest(infos),
        splits=splits,
        classes=list(plan.classes),
        multi_label=any(info.most_labels > 1 for info in infos),
        split_settings={
            "splits": [list(pair) for pair in job.rule.splits.items()],
            "by": job.rule.by,
            "seed": job.rule.seed,
            "target_shard_bytes": job.target_shard_bytes,
        },
        encode_settings=job.settings.to_json(),
        encode_digest=job.settings.digest,
        moved_duplicates=sum(info.moved for info in infos),
        encoded_anew=sum(info.encoded_anew for info in infos),
        inputs=found.inputs,
        outputs=sum(info.images for info in infos if not info.kept),
        failed=sum(found.failed_by_reason.values()),
        already_done=sum(info.images for info in infos if info.kept),
        failed_by_reason=dict(found.failed_by_reason),
        box_classes=list(plan.box_classes),
        boxes={name: sum(split.boxes[name] for split in splits.values()) for name in plan.box_classes},
        most_boxes=max((info.most_boxes for info in infos), default=0),
        boxes_clipped=sum(info.boxes_clipped for info in infos),
        annotations_failed=reasons.total(),
        annotations_failed_by_reason=dict(sorted(reasons.items())),
    )


def _check(plan: DatasetPlan, found: Found, manifest: DatasetManifest) -> None:
    problems = list(found.problems)
    accounted = manifest.images + manifest.failed
    if manifest.inputs != accounted:
        problems.append(
            f"{manifest.inputs} images came in, {manifest.images} were written and {manifest.failed} failed"
        )
    wanted, names = shard_names(plan.shards), Counter(info.name for info in found.infos)
    problems += [f"{name} was written {names[name]} times" for name in wanted if names[name] != 1]
    if found.observed.records != manifest.images:
        problems.append(f"{manifest.images} records were written, {found.observed.records} read back")
    counts, boxes = Counter[str](), Counter[str]()
    for info in found.infos:
        counts.update(info.classes)
        boxes.update(info.boxes)
    features = schema.build(plan.classes, box_classes=plan.box_classes, images=False)
    problems += schema.violations(features, found.observed, counts, boxes)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise JobError(f"the dataset is not committed: {problems[0]}{more}")
