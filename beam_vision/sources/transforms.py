"""Lists images, reads them, or both: the beginning of every pipeline over images.

The one shuffle of a pipeline is here, on refs: it makes every key one element, and shares the work out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.errors import Stage, UsageError, VisionError
from beam_vision.failures import FAILED, Outcome, failure
from beam_vision.sources import annotations as annotated
from beam_vision.sources import listing, tfrecord
from beam_vision.sources.files import MAX_FILE_BYTES
from beam_vision.sources.labels import with_known_labels
from beam_vision.sources.pairs import Pair
from beam_vision.sources.reader import ImageReader
from beam_vision.sources.select import SelectKeys
from beam_vision.sources.spec import SourceSpec, resolve
from beam_vision.sources.warehouse_transforms import ReadRowsDoFn, SnapshotRowsDoFn
from beam_vision.types import EncodedImage, Failure, ImageRef

READ_BATCH = 256
"""Refs that are handed to the pool of threads at a time; no bytes are held for those that wait."""


_NOWHERE = SourceSpec("voc", ("",))  # so that every DoFn can be made without arguments


class Opened(NamedTuple):
    """What :class:`OpenImages` gives: ``inputs == images + failed + already_done``.

    Attributes:
      images: PCollection of EncodedImage.
      failed: PCollection of Failure, of listing and of reading.
      inputs: PCollection of ONE int, counted at the listing: what came in, failures of listing included.
      already_done: PCollection of ONE int: how many were left out because of ``without_keys``.
    """

    images: beam.PCollection
    failed: beam.PCollection
    inputs: beam.PCollection
    already_done: beam.PCollection


class ListImages(beam.PTransform):
    """PBegin -> Outcome(PCollection[ImageRef] with each key once, PCollection[Failure]).

    Args:
      images: see :func:`~beam_vision.sources.spec.resolve`; or what that gave (the next three are then
        settled).
      format: what ``images`` is; ``auto`` finds out.
      image_root, boxes_on: see :func:`~beam_vision.sources.spec.resolve`.
      limit: only the first so many inputs, sorted by key; what is beyond is no input. 0: all.
      classes: the known labels; an image with another is a Failure ``unknown_label``, and a box with another
        a fault ``unknown_category``. Empty: any.
      run_id: stands in each failure.
      attempt: stands in each failure.

    Raises (when applied):
      UsageError: the source isn't there or isn't what ``format`` says; or it is a TFRecord dataset, which
        has no files to list: see :class:`OpenImages`.
    """

    def __init__(
        self,
        images: str | SourceSpec,
        *,
        format: str = "auto",
        image_root: str = "",
        boxes_on: str = "auto",
        limit: int = 0,
        classes: Sequence[str] = (),
        run_id: str = "",
        attempt: int = 1,
    ) -> None:
        super().__init__()
        self._source = (images, format, image_root, boxes_on)
        self._classes = tuple(classes)
        self._select = SelectKeys(run_id, attempt, limit=limit)

    def expand(self, begin: beam.pvalue.PBegin) -> Outcome:
        """Lists, and keeps each key once."""
        spec = _resolved(*self._source)
        if spec.format == "tfrecord":
            raise UsageError(
                f"{', '.join(spec.paths)} holds TFRecords; this job needs the image files themselves"
            )
        selected = list_source(begin, spec, classes=self._classes) | "SelectKeys" >> self._select
        return Outcome(selected.refs, selected.failed)


class ReadImages(beam.PTransform):
    """PCollection[ImageRef] -> Outcome(PCollection[EncodedImage], PCollection[Failure]).

    Files are read by a pool of threads; at most 64 MiB (or one larger file) are held at a time.

    Args:
      max_file_bytes: a larger file is a Failure ``too_many_bytes``.
      threads: how many files are read at a time.
      run_id: stands in each failure.
      attempt: stands in each failure.
    """

    def __init__(
        self, *, max_file_bytes: int = MAX_FILE_BYTES, threads: int = 16, run_id: str = "", attempt: int = 1
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "max_file_bytes": max_file_bytes,
            "threads": threads,
            "run_id": run_id,
            "attempt": attempt,
        }

    def expand(self, refs: beam.PCollection) -> Outcome:
        """Batches refs and reads them."""
        read = (
            refs
            | "BatchRefs" >> beam.BatchElements(min_batch_size=READ_BATCH, max_batch_size=READ_BATCH)
            | "ReadFiles" >> beam.ParDo(ReadDoFn(**self._options)).with_outputs(FAILED, main="good")
        )
        return Outcome(read.good, read[FAILED])


class OpenImages(beam.PTransform):
    """PBegin -> :class:`Opened`: the images of any source, TFRecords included, each key once.

    TFRecords are read twice: once for their keys, which then pass the same selection as any other ref's,
    and once, in chunks of 64 MiB, for the images that are wanted. So image bytes never meet a shuffle.

    Args:
      images, format, image_root, boxes_on, limit, classes, run_id, attempt: as for :class:`ListImages`.
      whole_records: give each TFRecord itself (a serialized Example) in place of the image in it.
      max_file_bytes, threads: as for :class:`ReadImages`.
      only_keys, without_keys: as for :class:`~beam_vision.sources.select.SelectKeys`.
    """

    def __init__(
        self,
        images: str | SourceSpec,
        *,
        format: str = "auto",
        image_root: str = "",
        boxes_on: str = "auto",
        limit: int = 0,
        classes: Sequence[str] = (),
        whole_records: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        threads: int = 16,
        only_keys: beam.PCollection | None = None,
        without_keys: beam.PCollection | None = None,
        run_id: str = "",
        attempt: int = 1,
    ) -> None:
        super().__init__()
        self._source = (images, format, image_root, boxes_on)
        self._classes = tuple(classes)
        self._select = SelectKeys(
            run_id, attempt, limit=limit, only_keys=only_keys, without_keys=without_keys
        )
        self._whole = whole_records
        self._read_records = ReadRecords(whole=whole_records, run_id=run_id, attempt=attempt)
        self._read_files = ReadImages(
            max_file_bytes=max_file_bytes, threads=threads, run_id=run_id, attempt=attempt
        )

    def expand(self, begin: beam.pvalue.PBegin) -> Opened:
        """Lists, selects and reads."""
        spec = _resolved(*self._source)
        if self._whole and spec.format != "tfrecord":
            raise UsageError(
                f"{', '.join(spec.paths)} is no TFRecord dataset, and whole records were asked for"
            )
        listed = list_source(begin, spec, classes=self._classes, whole_records=self._whole)
        selected = listed | "SelectKeys" >> self._select
        reader = self._read_records if spec.format == "tfrecord" else self._read_files
        read = selected.refs | "ReadImages" >> reader
        inputs = (
            selected.refs | "OneEachRef" >> beam.Map(_one),
            selected.failed | "OneEachFailure" >> beam.Map(_one),
            selected.already_done,
        )
        return Opened(
            images=read.good,
            failed=(selected.failed, read.failed) | "AllFailed" >> beam.Flatten(),
            inputs=inputs | "AllInputs" >> beam.Flatten() | "CountInputs" >> beam.CombineGlobally(sum),
            already_done=selected.already_done | "CountDone" >> beam.CombineGlobally(sum),
        )


class ReadRecords(beam.PTransform):
    """PCollection[RecordRef] -> Outcome(PCollection[EncodedImage], PCollection[Failure]).

    Args:
      whole: give each record itself in place of the image in it.
      run_id: stands in each failure.
      attempt: stands in each failure.
    """

    def __init__(self, *, whole: bool = False, run_id: str = "", attempt: int = 1) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"whole": whole, "run_id": run_id, "attempt": attempt}

    def expand(self, refs: beam.PCollection) -> Outcome:
        """Gathers the records of each chunk of a shard, and reads the chunk once."""
        read = (
            refs
            | "ByChunk" >> beam.Map(_by_chunk)
            | "GroupChunks" >> beam.GroupByKey()
            | "ReadChunks" >> beam.ParDo(ReadChunkDoFn(**self._options)).with_outputs(FAILED, main="good")
        )
        return Outcome(read.good, read[FAILED])


def list_source(
    begin: beam.pvalue.PBegin,
    spec: SourceSpec,
    *,
    classes: tuple[str, ...] = (),
    whole_records: bool = False,
) -> beam.PCollection:
    """Everything a source lists, as ``(key, ImageRef | RecordRef | Failure)``; keys may come twice."""
    start = begin | "Source" >> beam.Create([spec])
    if spec.format == "tfrecord":
        shards = start | "ListShards" >> beam.ParDo(ListShardsDoFn()).with_outputs(FAILED, main="good")
        scanned = (
            shards.good
            | "ShareShards" >> beam.Reshuffle()
            | "ScanShards" >> beam.ParDo(ScanShardDoFn(classes=classes, whole=whole_records))
        )
        return (scanned, shards[FAILED]) | "AllListed" >> beam.Flatten()
    if spec.format in annotated.PAIRED:
        pairs = start | "ListPairs" >> beam.ParDo(ListPairsDoFn()).with_outputs(FAILED, main="good")
        read = (
            pairs.good
            | "SharePairs" >> beam.Reshuffle()
            | "ReadPairs" >> beam.ParDo(ReadPairDoFn(spec, classes=classes))
        )
        return (read, pairs[FAILED]) | "AllListed" >> beam.Flatten()
    if spec.rows is not None:
        return (
            start
            | "SnapshotRows" >> beam.ParDo(SnapshotRowsDoFn())
            | "ShareStreams" >> beam.Reshuffle()
            | "ReadRows" >> beam.ParDo(ReadRowsDoFn(spec, classes=classes))
        )
    return start | "List" >> beam.ParDo(ListDoFn(classes=classes))


def _resolved(images: str | SourceSpec, *settings: str) -> SourceSpec:
    return images if isinstance(images, SourceSpec) else resolve(images, *settings)


class ListDoFn(beam.DoFn):
    """SourceSpec -> (key, ImageRef or Failure): files, rows of manifests, images of COCO.

    Args:
      classes: the known labels; empty: any.
    """

    def __init__(self, *, classes: tuple[str, ...] = ()) -> None:
        self._classes = classes

    def process(self, spec: SourceSpec) -> Iterator[tuple[str, Any]]:
        """Streams the listing."""
        for found in annotated.list_refs(spec):
            if isinstance(found, listing.Skipped):
                metrics.count(metrics.SKIPPED_FILES)
            else:
                yield found.key, with_known_labels(found, self._classes)


class ListPairsDoFn(beam.DoFn):
    """SourceSpec -> the Pair of each image with its file of annotations; failures as (key, Failure)."""

    def process(self, spec: SourceSpec) -> Iterator[Any]:
        """Streams the listing."""
        for found in annotated.list_pairs(spec):
            if isinstance(found, listing.Skipped):
                metrics.count(metrics.SKIPPED_FILES)
            elif isinstance(found, Failure):
                yield TaggedOutput(FAILED, (found.key, found))
            else:
                yield found


class ReadPairDoFn(beam.DoFn):
    """Pair -> (key, ImageRef with the boxes of its file of annotations, or Failure).

    Args:
      spec: the source.
      classes: the known labels; empty: any.
    """

    def __init__(self, spec: SourceSpec = _NOWHERE, *, classes: tuple[str, ...] = ()) -> None:
        self._spec = spec
        self._classes = classes

    def setup(self) -> None:
        """Reads what all files of annotations have in common."""
        self._read = annotated.pair_reader(self._spec)

    def process(self, pair: Pair) -> Iterator[tuple[str, Any]]:
        """Reads one file of annotations."""
        found = self._read(pair)
        yield found.key, with_known_labels(found, self._classes)


class ListShardsDoFn(beam.DoFn):
    """SourceSpec -> the path of each TFRecord shard; failures as (key, Failure)."""

    def process(self, spec: SourceSpec) -> Iterator[Any]:
        """Streams the listing."""
        for found in tfrecord.list_shards(spec.paths):
            if isinstance(found, listing.Skipped):
                metrics.count(metrics.SKIPPED_FILES)
            elif isinstance(found, Failure):
                yield TaggedOutput(FAILED, (found.key, found))
            else:
                yield found.uri


class ScanShardDoFn(beam.DoFn):
    """The path of a shard -> (key, RecordRef or Failure) of each record in it.

    Args:
      classes: the known labels; empty: any.
      whole: the records themselves are wanted, so they need hold no image.
    """

    def __init__(self, *, classes: tuple[str, ...] = (), whole: bool = False) -> None:
        self._classes = classes
        self._whole = whole

    def process(self, path: str) -> Iterator[tuple[str, Any]]:
        """Reads the shard and drops the images."""
        for found in tfrecord.scan_shard(path, whole=self._whole):
            yield found.key, with_known_labels(found, self._classes)


class ReadDoFn(beam.DoFn):
    """A batch of refs -> EncodedImage, or Failure under ``failed``, in the order in which files arrive.

    Args:
      options: of :class:`~beam_vision.sources.reader.ImageReader`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self) -> None:
        """Starts the threads."""
        self._reader = ImageReader(**self._options)

    def process(self, refs: Sequence[ImageRef]) -> Iterator[Any]:
        """Reads a batch."""
        seconds = 0.0
        for read in self._reader.read_all(refs):
            seconds += read.seconds
            if isinstance(read.outcome, Failure):
                metrics.count_failure(read.outcome.reason)
                yield TaggedOutput(FAILED, read.outcome)
            else:
                yield _opened(EncodedImage(read.ref, read.outcome))
        metrics.observe(metrics.READ_MS, 1000 * seconds)

    def teardown(self) -> None:
        """Ends the threads."""
        self._reader.close()


class ReadChunkDoFn(beam.DoFn):
    """((shard, chunk), its RecordRefs) -> EncodedImage, or Failure under ``failed``.

    Args:
      whole: give each record itself in place of the image in it.
      run_id: stands in each failure.
      attempt: stands in each failure.
    """

    def __init__(self, *, whole: bool = False, run_id: str = "", attempt: int = 1) -> None:
        self._whole = whole
        self._stamp: dict[str, Any] = {"run_id": run_id, "attempt": attempt}

    def process(self, element: tuple[tuple[str, int], Iterable[tfrecord.RecordRef]]) -> Iterator[Any]:
        """Reads the wanted records of a chunk."""
        (shard, _), refs = element
        wanted = sorted(refs, key=lambda ref: ref.offset)
        for ref, read in zip(wanted, tfrecord.read_chunk(shard, wanted, whole=self._whole), strict=True):
            if isinstance(read, VisionError):
                metrics.count_failure(read.reason.value)
                bad = ImageRef(key=ref.key, uri=ref.uri)
                yield TaggedOutput(FAILED, failure(read, bad, Stage.READ, **self._stamp))
            else:
                yield _opened(read)


def _opened(image: EncodedImage) -> EncodedImage:
    metrics.count(metrics.READ)
    metrics.count(metrics.READ_BYTES, len(image.data))
    return image


def _one(_: Any) -> int:
    return 1


def _by_chunk(ref: tfrecord.RecordRef) -> tuple[tuple[str, int], tfrecord.RecordRef]:
    return (ref.shard, ref.chunk), ref
