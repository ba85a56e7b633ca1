"""PTransforms that write the shards of a dataset, read them back, and commit."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision import deps, metrics, storage
from beam_vision.failures import FAILED, Outcome
from beam_vision.records.commit import Found, commit
from beam_vision.records.layout import shard_name
from beam_vision.records.observe import Observed, merge, observe
from beam_vision.records.plan import DatasetPlan, Job
from beam_vision.records.plan_transforms import Planned, Slot
from beam_vision.records.shard import Item, ShardInfo, ShardPlan
from beam_vision.records.writer import Read, ShardWriter
from beam_vision.tfrecord_io import CorruptRecord, read_records
from beam_vision.types import Failure

RECORDS = "records"
"""The tag of records that were read back."""

_TFXIO_BATCH = 16
_PROGRESS_SEC = 0.2


class WriteShards(beam.PTransform):
    """:class:`Planned` -> Outcome(:class:`~beam_vision.records.shard.ShardInfo`, failures): one file a shard.

    Args:
      job: what is asked for.
      read: gives a file's bytes.
    """

    def __init__(self, job: Job, read: Read) -> None:
        super().__init__()
        self._do = _WriteShard(job, read)

    def expand(self, planned: Planned) -> Outcome:
        """Groups the items of each shard, and writes it."""
        done = (
            planned.items
            | "ItemsOfShard" >> beam.GroupByKey()
            | "Write"
            >> beam.ParDo(self._do, beam.pvalue.AsSingleton(planned.plan))
            .with_output_types(ShardInfo, failed=Failure)
            .with_outputs(FAILED, main="good")
        )
        return Outcome(done.good, done[FAILED])


class _WriteShard(beam.DoFn):
    """Writes a shard in the background while the one before is read back, so that no core ever waits."""

    def __init__(self, job: Job, read: Read) -> None:
        self._job = job
        self._read = read

    def setup(self) -> None:
        self._writer: ShardWriter | None = None
        self._background = ThreadPoolExecutor(1, "shard")

    def teardown(self) -> None:
        if self._writer is not None:
            self._writer.close()  # a shard that is still being written ends with an error, and leaves nothing
        self._background.shutdown(cancel_futures=True)

    def start_bundle(self) -> None:
        self._begun: _Begun | None = None

    def process(self, group: tuple[Slot, Iterable[Item]], dataset: DatasetPlan) -> Iterator[Any]:
        before, self._begun = self._begun, self._begin(group, dataset)
        yield from self._end(before)

    def finish_bundle(self) -> Iterator[Any]:
        window = GlobalWindow()
        for value in self._end(self._begun):
            tagged = isinstance(value, beam.pvalue.TaggedOutput)
            inner = WindowedValue(value.value if tagged else value, window.max_timestamp(), [window])
            yield beam.pvalue.TaggedOutput(value.tag, inner) if tagged else inner

    def _begin(self, group: tuple[Slot, Iterable[Item]], dataset: DatasetPlan) -> _Begun:
        (split, index), found = group
        items = sorted((item for item in found if item.sha256), key=lambda item: item.ref.key)
        moved = sum(self._job.rule.wanted(item.ref, item.sha256) != split for item in items)
        plan = ShardPlan(shard_name(split, index, dataset.shards[split]), split, items, moved)
        if self._writer is None:
            self._writer = ShardWriter(self._job, dataset.classes, dataset.box_classes, read=self._read)
        times: queue.SimpleQueue[float] = queue.SimpleQueue()
        return _Begun(self._background.submit(self._writer.write_or_keep, plan, times.put), times)

    def _end(self, begun: _Begun | None) -> Iterator[Any]:
        """Waits for a shard, and gives what became of it."""
        if begun is None:
            return
        while not begun.future.done():
            wait([begun.future], timeout=_PROGRESS_SEC)
            begun.count_images()
        begun.count_images()
        info = begun.future.result()
        if info.kept:
            metrics.count(metrics.RESUMED, info.images)
        for failure in info.failures:
            metrics.count_failure(failure.reason)
            yield beam.pvalue.TaggedOutput(FAILED, replace(failure, run_id=self._job.run_id))
        yield info


class _Begun(NamedTuple):
    """A shard that is being written on another thread, and how long each of its images took.

    Counted on the thread that waits: Beam's metrics find their bundle by the thread.
    """

    future: Future[ShardInfo]
    encode_sec: queue.SimpleQueue[float]

    def count_images(self) -> None:
        while not self.encode_sec.empty():
            metrics.count(metrics.DONE)
            metrics.count(metrics.DECODED)
            metrics.observe(metrics.DECODE_MS, self.encode_sec.get() * 1000)


class ReadBack(beam.PTransform):
    """ShardInfo -> (records as bytes, problems as text): every record, its checksums checked.

    Args:
      folder: the dataset's.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, infos: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        """Reads each shard."""
        do = beam.ParDo(_ReadBack(self._folder)).with_output_types(str, records=bytes)
        done = infos | do.with_outputs(RECORDS, main="problems")
        return done[RECORDS], done.problems


class _ReadBack(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, info: ShardInfo) -> Iterator[Any]:
        with storage.open_read(storage.join(self._folder, info.name)) as file:
            try:
                for record in read_records(file):
                    yield beam.pvalue.TaggedOutput(RECORDS, record)
            except CorruptRecord as error:
                yield f"{info.name}: {error}"


class ObserveRecords(beam.PTransform):
    """Records -> exactly one :class:`~beam_vision.records.observe.Observed`, through tfx-bsl's TFXIO.

    Args:
      schema: reads just the features that it has; None: reads all that are there.
    """

    def __init__(self, schema: Any = None) -> None:
        super().__init__()
        self._schema = schema

    def expand(self, records: beam.PCollection) -> beam.PCollection:
        """Records -> Arrow RecordBatches -> what is in them."""
        tfxio = deps.need("tfx_bsl.public.tfxio").TFExampleBeamRecord(
            physical_format="tfrecord", telemetry_descriptors=["beam_vision"], schema=self._schema
        )
        return (
            records
            | "RecordBatches" >> tfxio.BeamSource(batch_size=_TFXIO_BATCH)
            | "Observe" >> beam.Map(observe)
            | "Merge" >> beam.CombineGlobally(merge)
        )


class CommitDataset(beam.PTransform):
    """The plan -> the manifest as JSON, once everything else is done; nothing when no image came through.

    Args:
      job: what was asked for.
      infos: ShardInfos.
      observed: one Observed.
      problems: texts.
      inputs: one int, the images that came in.
      report: one dict, what ``WriteFailures`` gave; so the dead letter is written before the manifest.
    """

    def __init__(
        self,
        job: Job,
        *,
        infos: beam.PCollection,
        observed: beam.PCollection,
        problems: beam.PCollection,
        inputs: beam.PCollection,
        report: beam.PCollection,
    ) -> None:
        super().__init__()
        self._job = job
        self._lists = (infos, problems)
        self._singles = (observed, inputs, report)

    def expand(self, plan: beam.PCollection) -> beam.PCollection:
        """Takes all as side inputs, so that it comes last."""
        lists = map(beam.pvalue.AsList, self._lists)
        singles = map(beam.pvalue.AsSingleton, self._singles)
        return plan | beam.FlatMap(_commit, self._job, *lists, *singles)


def _commit(
    plan: DatasetPlan,
    job: Job,
    infos: list[ShardInfo],
    problems: list[str],
    observed: Observed,
    inputs: int,
    report: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    found = Found(
        infos=infos,
        observed=observed,
        problems=problems,
        inputs=inputs,
        failed_by_reason=report["by_reason"],
    )
    manifest = commit(job, plan, found)
    if manifest is not None:
        yield manifest.to_json()
