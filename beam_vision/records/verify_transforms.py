"""PTransforms that prove a dataset whole, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam

from beam_vision import coders, storage
from beam_vision.records import schema, verify
from beam_vision.records.ahead import cores
from beam_vision.records.check import Checked, Place, Problem, ShardChecker
from beam_vision.records.encode import check_settings
from beam_vision.records.manifest import DatasetManifest, Shard
from beam_vision.records.observe import Observed
from beam_vision.records.write_transforms import RECORDS, ObserveRecords

coders.register_row(Place)

_KEYED = tuple[str, Place]
_PLACES = "places"
_PROBLEMS = "problems"


class VerifyDataset(beam.PTransform):
    """PBegin -> exactly one dict:
    ``{"problems": [text], "splits": {name: {"shards", "images", "bytes", "boxes"}}}``.

    Args:
      folder: the dataset's.
      manifest: its manifest.
      decode: whether every image is decoded.
      report: where the dict is written too, as JSON.
    """

    def __init__(self, folder: str, manifest: DatasetManifest, *, decode: bool = True, report: str) -> None:
        super().__init__()
        self._folder = folder
        self._manifest = manifest
        self._decode = decode
        self._report = report

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Shards side by side; then copies and keys across them."""
        shards, missing = verify.check_files(self._folder, self._manifest)
        done = (
            begin
            | "Shards" >> beam.Create(shards)
            | "Apart" >> beam.Reshuffle()
            | "Check"
            >> beam.ParDo(_CheckShard(self._folder, self._manifest, self._decode))
            .with_output_types(Checked, records=bytes, places=Place, problems=Problem)
            .with_outputs(RECORDS, _PLACES, _PROBLEMS, main="checked")
        )
        copies = (
            done[_PLACES]
            | "ByContent" >> beam.Map(lambda place: (place.content_sha256, place)).with_output_types(_KEYED)
            | "GroupContent" >> beam.GroupByKey()
            | "Copies" >> beam.FlatMapTuple(verify.check_copies)
        )
        keys = (
            done[_PLACES]
            | "ByKey" >> beam.Map(lambda place: (place.key, place)).with_output_types(_KEYED)
            | "GroupKeys" >> beam.GroupByKey()
            | "Keys" >> beam.FlatMapTuple(verify.check_key)
        )
        problems = (done[_PROBLEMS], copies, keys) | "Problems" >> beam.Flatten()
        observed = done[RECORDS] | ObserveRecords()
        return (
            begin.pipeline
            | "Once" >> beam.Create([missing])
            | "Report"
            >> beam.Map(
                _report,
                self._folder,
                self._manifest,
                self._report,
                beam.pvalue.AsList(problems),
                beam.pvalue.AsList(done.checked),
                beam.pvalue.AsSingleton(observed),
            )
        )


class _CheckShard(beam.DoFn):
    def __init__(self, folder: str, manifest: DatasetManifest, decode: bool) -> None:
        self._folder = folder
        self._manifest = manifest
        self._decode = check_settings(manifest.encode_settings["max_pixels"]) if decode else None

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(cores(), "verify")
        manifest = self._manifest
        built = schema.build(manifest.classes, box_classes=manifest.box_classes)
        feature_schema, _ = verify.read_schema(self._folder)
        self._checker = ShardChecker(
            self._folder,
            self._manifest,
            kinds=verify.kinds_of(feature_schema or built),
            decode=self._decode,
            pool=self._pool,
        )

    def teardown(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def process(self, shard: Shard) -> Iterator[Any]:
        for found in self._checker.check(shard):
            if isinstance(found, bytes):
                yield beam.pvalue.TaggedOutput(RECORDS, found)
            elif isinstance(found, Place):
                yield beam.pvalue.TaggedOutput(_PLACES, found)
            elif isinstance(found, Problem):
                yield beam.pvalue.TaggedOutput(_PROBLEMS, found)
            else:
                yield found


def _report(
    missing: list[Problem],
    folder: str,
    manifest: DatasetManifest,
    path: str,
    problems: list[Problem],
    checked: list[Checked],
    observed: Observed,
) -> dict[str, Any]:
    """Puts everything together and writes it. Counts are compared only where no file is at fault."""
    feature_schema, found = verify.read_schema(folder)
    found += verify.check_label_map(folder, manifest)
    found += [*missing, *sorted(problems, key=lambda p: (p.shard, not p.where, p.where, p.what))]
    if not found:
        found = verify.check_counts(manifest, checked)
    if not found:
        boxes = manifest.boxes if manifest.box_classes else None
        said = schema.violations(feature_schema, observed, verify.class_counts(manifest), boxes)
        found = [Problem("", "read through TFXIO", what) for what in said]
    splits = {
        name: {
            "shards": sum(shard.split == name for shard in checked),
            "images": sum(shard.images for shard in checked if shard.split == name),
            "bytes": sum(shard.bytes for shard in checked if shard.split == name),
            "boxes": sum(sum(shard.boxes.values()) for shard in checked if shard.split == name),
        }
        for name in manifest.splits
    }
    report = {"problems": [str(problem) for problem in found], "splits": splits}
    storage.write_json(path, report)
    return report
