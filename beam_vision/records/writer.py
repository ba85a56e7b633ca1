"""Writes a shard: images are read, decoded and encoded in threads, and written in the order of their keys."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import google_crc32c

from beam_vision import storage
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import Guard, shorten
from beam_vision.records.ahead import cores, map_ahead
from beam_vision.records.annotate import Annotated, annotate
from beam_vision.records.encode import PixelSums, store
from beam_vision.records.example import Record, to_example
from beam_vision.records.label_map import box_ids
from beam_vision.records.layout import side_car_name
from beam_vision.records.plan import Job
from beam_vision.records.shard import Item, ShardInfo, ShardPlan, finished
from beam_vision.tfrecord_io import write_record
from beam_vision.types import Failure, Fault

Read = Callable[[str], bytes]
"""Gives the bytes of a file by its URI; raises ``VisionError`` when it can't."""

OnWritten = Callable[[float], object]
READ_THREADS = 16
_AHEAD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Written:
    """One image ready for its shard: the serialized record and what of it is counted."""

    record: bytes
    key: str
    labels: tuple[str, ...]
    annotated: Annotated
    pixels: PixelSums
    encoded_anew: bool
    encode_sec: float


class ShardWriter:
    """Writes shards into a folder. One shard alone keeps all cores busy.

    Files are read by :data:`READ_THREADS` threads, decoded and encoded by as many as there are cores; what is
    read ahead is bounded in bytes, what is decoded by the number of threads.

    Args:
      job: what is asked for.
      classes: the class list.
      box_classes: the categories of boxes.
      read: gives a file's bytes.
    """

    def __init__(
        self, job: Job, classes: Sequence[str], box_classes: Sequence[str] = (), *, read: Read
    ) -> None:
        self._job = job
        self._classes = list(classes)
        self._box_classes = list(box_classes)
        self._box_ids = box_ids(box_classes)
        self._ids = {label: number for number, label in enumerate(classes)}
        self._read = read
        self._threads = job.threads or cores()
        self._readers = ThreadPoolExecutor(READ_THREADS, "read")
        self._coders = ThreadPoolExecutor(self._threads, "encode")
        self._guarded_read = Guard(self._read_item, Stage.READ, run_id=job.run_id, attempt=job.attempt)
        self._guarded_encode = Guard(self._encode_item, Stage.DECODE, run_id=job.run_id, attempt=job.attempt)

    def close(self) -> None:
        """Ends the threads."""
        self._readers.shutdown(cancel_futures=True)
        self._coders.shutdown(cancel_futures=True)

    def write_or_keep(self, plan: ShardPlan, on_written: OnWritten) -> ShardInfo:
        """:meth:`write`, unless the job resumes and an earlier run has finished the same shard."""
        job = self._job
        if job.resume:
            digest = self._digest(plan)
            info = finished(job.folder, plan, digest, retry_failed=job.retry_failed)
            if info is not None:
                return info
        return self.write(plan, on_written)

    def write(self, plan: ShardPlan, on_written: OnWritten) -> ShardInfo:
        """Writes a shard, aside and then renamed, and after it its side-car.

        Args:
          plan: what goes into it.
          on_written: called on this thread for each record, with the seconds that decoding and encoding took.
        """
        side_car = storage.join(self._job.folder, side_car_name(plan.name))
        storage.delete(side_car)  # never beside a shard that it doesn't describe
        tally = _Tally(self._job)
        with storage.open_write(storage.join(self._job.folder, plan.name)) as file:
            hashing = _HashingFile(file)
            for result in self._results(plan.items):
                tally.add(result)
                if isinstance(result, Written):
                    write_record(hashing, result.record)  # type: ignore[arg-type]
                    on_written(result.encode_sec)
        info = tally.info(plan, self._digest(plan), hashing)
        storage.write_json(side_car, info.to_json())
        return info

    def _digest(self, plan: ShardPlan) -> str:
        return plan.digest(self._job.settings, self._classes, self._box_classes)

    def _results(self, items: Sequence[Item]) -> Iterator[Written | Failure]:
        """What became of each item, in order."""
        read = map_ahead(
            self._readers,
            lambda item: (item, self._guarded_read(item.ref, item)),
            items,
            most=2 * READ_THREADS,
            most_bytes=_AHEAD_BYTES,
            size_bytes=lambda item: item.n_bytes,
        )
        return map_ahead(
            self._coders,
            self._encode,
            read,
            most=4 * self._threads,
            most_bytes=_AHEAD_BYTES,
            size_bytes=lambda pair: pair[0].n_bytes,
        )

    def _read_item(self, item: Item) -> bytes:
        data = self._read(item.ref.uri)
        if google_crc32c.value(data) != item.crc32c:
            raise VisionError(Reason.READ_ERROR, "the file changed while the job ran; run it again")
        return data

    def _encode(self, pair: tuple[Item, bytes | Failure]) -> Written | Failure:
        item, data = pair
        return data if isinstance(data, Failure) else self._guarded_encode(item.ref, item, data)

    def _encode_item(self, item: Item, data: bytes) -> Written:
        start = time.perf_counter()
        ref = item.ref
        labels = tuple(dict.fromkeys(ref.labels))
        stored = store(data, self._job.settings)
        annotated = annotate(ref, stored, self._box_ids)
        record = Record(
            key=ref.key,
            uri=ref.uri,
            data=stored.data,
            format=stored.format,
            width_px=stored.width_px,
            height_px=stored.height_px,
            content_sha256=item.sha256,
            labels=labels,
            label_ids=[self._ids[label] for label in labels],
            attributes=ref.attributes,
            boxes=annotated.boxes,
            box_ids=[self._box_ids[box.label] for box in annotated.boxes],
            for_detection=bool(self._box_ids),
        )
        return Written(
            record=to_example(record),
            key=ref.key,
            labels=labels,
            annotated=annotated,
            pixels=stored.pixels,
            encoded_anew=stored.data is not data,
            encode_sec=time.perf_counter() - start,
        )


class _HashingFile:
    """A file for writing that knows the sha256 and the size of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)


class _Tally:
    """Counts what goes into a shard."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.images = self.unlabelled = self.most_labels = self.encoded_anew = 0
        self.most_boxes = self.boxes_clipped = 0
        self.classes: Counter[str] = Counter()
        self.boxes: Counter[str] = Counter()
        self.pixels = PixelSums()
        self.failures: list[Failure] = []
        self.annotation_failures: list[Failure] = []

    def add(self, result: Written | Failure) -> None:
        if isinstance(result, Failure):
            self.failures.append(result)
            return
        self.images += 1
        self.classes.update(result.labels)
        self.unlabelled += not result.labels
        self.most_labels = max(self.most_labels, len(result.labels))
        self.encoded_anew += result.encoded_anew
        self.pixels += result.pixels
        annotated = result.annotated
        self.boxes.update(box.label for box in annotated.boxes)
        self.most_boxes = max(self.most_boxes, len(annotated.boxes))
        self.boxes_clipped += annotated.clipped
        self.annotation_failures += [self._failure(result.key, fault) for fault in annotated.faults]

    def _failure(self, key: str, fault: Fault) -> Failure:
        stage, detail = Stage.ANNOTATION.value, shorten(fault.detail)
        return Failure(key, fault.place, stage, fault.reason, detail, self._job.attempt, self._job.run_id)

    def info(self, plan: ShardPlan, plan_digest: str, file: _HashingFile) -> ShardInfo:
        return ShardInfo(
            name=plan.name,
            split=plan.split,
            plan_digest=plan_digest,
            images=self.images,
            bytes=file.size,
            sha256=file.sha256.hexdigest(),
            classes=dict(self.classes),
            unlabelled=self.unlabelled,
            most_labels=self.most_labels,
            moved=plan.moved,
            encoded_anew=self.encoded_anew,
            pixels=self.pixels,
            boxes=dict(self.boxes),
            most_boxes=self.most_boxes,
            boxes_clipped=self.boxes_clipped,
            failures=tuple(self.failures),
            annotation_failures=tuple(self.annotation_failures),
        )
