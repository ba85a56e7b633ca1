"""Builds and updates index folders from tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_vision import deps, storage
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import bundle, scann_index, tune
from beam_vision.search.base import Store, VectorIndex
from beam_vision.search.bundle import Bundle, IndexManifest
from beam_vision.search.exact import ROWS_AT_ONCE, ExactIndex
from beam_vision.search.scann_index import HASH, TREE, ScannIndex
from beam_vision.search.since import as_read, moment_of, remember
from beam_vision.search.vectors import VectorTable, read_changes, read_vectors, silent

AUTO, EXACT = "auto", ExactIndex.backend
BACKENDS = (AUTO, EXACT, HASH, TREE)
EXACT_BELOW_ROWS = 20_000
HASH_BELOW_ROWS = 100_000
FEWEST_SCANN_ROWS = 64  # under that even the least reordering is most of the rows
RETRAIN_AFTER = 0.1  # of the rows it was trained on


@dataclass(frozen=True)
class Built:
    """What a build or an update did.

    Attributes:
      manifest: the index as it is now.
      added, replaced, deleted: rows whose vectors differ from the index that was there.
      trained: whether the index was made anew rather than changed or left.
    """

    manifest: IndexManifest
    added: int
    replaced: int
    deleted: int
    trained: bool


@dataclass(frozen=True)
class Request:
    """What was asked for; the options of :func:`build`.

    Raises:
      UsageError: one is out of its range.
    """

    table: str
    output: str
    recall_target: float
    backend: str
    progress: Callable[[str], None]

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1:
            raise UsageError(f"--recall_target is a share in 0..1, more than 0, not {self.recall_target}")
        if self.backend not in BACKENDS:
            raise UsageError(f"--backend is one of {', '.join(BACKENDS)}, not {self.backend!r}")

    def backend_for(self, rows: int) -> str:
        """The backend for a number of rows: what was asked for, or what suits it."""
        return choose_backend(rows) if self.backend == AUTO else self.backend


def choose_backend(rows: int) -> str:
    """The backend that suits a number of rows."""
    if rows < EXACT_BELOW_ROWS:
        return EXACT
    return HASH if rows < HASH_BELOW_ROWS else TREE


def build(
    table_folder: str,
    output: str,
    *,
    recall_target: float = 0.95,
    backend: str = AUTO,
    skip_bad_vectors: bool = False,
    progress: Callable[[str], None] = silent,
) -> Built:
    """Makes an index of a table's vectors, tuned to a recall@10 target, and publishes it at ``output``.

    Args:
      table_folder: the table, a folder or ``bigquery://project.dataset.table``; see
        :func:`~beam_vision.search.vectors.read_vectors`.
      output: the index folder; an index that is there is replaced.
      recall_target: in 0..1, more than 0; where ScaNN can't reach it the index is exact, and says so.
      backend: one of :data:`BACKENDS`; ``auto`` is :func:`choose_backend`.
      skip_bad_vectors: leave bad vectors out instead of refusing the table.
      progress: is told what is being done.

    Raises:
      UsageError, DigestMismatch: the options, the table or the output folder won't do.
    """
    request = Request(table_folder, output, recall_target, backend, progress)
    with bundle.locked(output):
        source = read_vectors(table_folder, skip_bad_vectors=skip_bad_vectors, progress=progress)
        manifest = make(source, request)
    return Built(manifest, added=len(source.store), replaced=0, deleted=0, trained=True)


def update(
    table_folder: str,
    output: str,
    *,
    recall_target: float | None = None,
    backend: str | None = None,
    since: str = "",
    compact: bool = False,
    skip_bad_vectors: bool = False,
    progress: Callable[[str], None] = silent,
) -> Built:
    """Brings an index to what the table holds: adds, replaces and deletes what differs, and publishes it.

    It is trained anew when the table's size calls for another backend, when more than a tenth of the rows
    changed since it was trained, or when it can't be tuned to its recall target on the rows that changed.

    Args:
      table_folder: the table.
      output: the index folder.
      recall_target, backend: None: as it was built.
      since: a time in ISO's form, or ``last`` (when the index was brought up to date): rows that were written
        before are taken to be in the index as they are, and only their keys are read, to find those that are
        gone. Empty: the whole table is read.
      compact: train anew, even where few rows changed.
      skip_bad_vectors, progress: as for :func:`build`.

    Raises:
      UsageError: there is no index at ``output``; or as for :func:`build`.
      DigestMismatch: the table's vectors were made by another model or preprocessing than the index's.
    """
    bundle.read_manifest(output)
    with bundle.locked(output):
        old = bundle.open_bundle(output)
        request = Request(
            table_folder,
            output,
            old.manifest.recall_target if recall_target is None else recall_target,
            backend or old.manifest.asked_backend,
            progress,
        )
        reading: dict[str, Any] = {"skip_bad_vectors": skip_bad_vectors, "progress": progress}
        if since:
            moment = moment_of(since, old.manifest, table_folder)
            source = read_changes(table_folder, moment, as_read(old), **reading)
        else:
            source = read_vectors(table_folder, **reading)
        _require_same_makers(old.manifest, source, output)
        added, replaced, deleted = differences(old.index.store, source.store)
        progress(f"{len(added):,} rows to add, {len(replaced):,} to replace, {len(deleted):,} to delete")
        same = not (added or replaced or deleted) and _is_up_to_date(old, source, request)
        if same and not (compact and old.manifest.changed_rows):
            return Built(remember(old.manifest, source, output), 0, 0, 0, trained=False)
        manifest = None if compact else change(old, source, request, [*replaced, *added], deleted)
        trained = manifest is None
        if manifest is None:
            manifest = make(source, request)
    return Built(manifest, len(added), len(replaced), len(deleted), trained)


def differences(old: Store, new: Store) -> tuple[list[str], list[str], list[str]]:
    """Keys to add, to replace and to delete, each sorted, that make ``old`` into ``new``."""
    both = sorted(old.row_of.keys() & new.row_of.keys())
    replaced = []
    for start in range(0, len(both), ROWS_AT_ONCE):
        some = both[start : start + ROWS_AT_ONCE]
        before = old.vectors[[old.row_of[key] for key in some]]
        after = new.vectors[[new.row_of[key] for key in some]]
        differs = (before != after).any(axis=1)
        replaced += [key for key, other in zip(some, differs, strict=True) if other]
    added, deleted = new.row_of.keys() - old.row_of.keys(), old.row_of.keys() - new.row_of.keys()
    return sorted(added), replaced, sorted(deleted)


def make(source: VectorTable, request: Request) -> IndexManifest:
    """Trains and publishes an index from nothing; call it where nobody else writes ``request.output``."""
    index, notes = _train(source.store, request)
    manifest = _manifest(index, source, request, trained_rows=len(index.store), notes=notes)
    return bundle.publish(request.output, Bundle(manifest, index, source.rows, notes))


def _train(store: Store, request: Request) -> tuple[VectorIndex, list[str]]:
    """The index that was asked for, tuned; or an exact one and the reason."""
    wanted = request.backend_for(len(store))
    if wanted == EXACT:
        return ExactIndex(store), []
    if len(store) < FEWEST_SCANN_ROWS:
        return ExactIndex(store), [f"exact, not {wanted}: {len(store)} rows are too few to train on"]
    if request.backend == AUTO and not deps.have("scann"):
        return ExactIndex(store), [f"exact, not {wanted}: ScaNN is not installed here"]
    request.progress(f"training {wanted} on {len(store):,} rows of {store.dimension}")
    index = scann_index.train(store, tree=wanted == TREE)
    if tune.tune(index, request.recall_target, progress=request.progress):
        return index, []
    reason = f"it can't reach recall@10 {request.recall_target} on these vectors"
    return ExactIndex(store), [f"exact, not {wanted}: {reason}"]


def change(
    old: Bundle, source: VectorTable, request: Request, upserted: list[str], deleted: list[str]
) -> IndexManifest | None:
    """Changes a ScaNN index row by row and publishes it; None: it has to be trained anew.

    Args:
      old: the index, which is changed in memory.
      source: the rows as they are to be.
      request: what was asked for; its output is where the index is published.
      upserted, deleted: keys, as :func:`differences` finds them.
    """
    index, trained_rows = old.index, old.manifest.trained_rows
    changed_rows = old.manifest.changed_rows + len(upserted) + len(deleted)
    if (
        not isinstance(index, ScannIndex)
        or index.backend != request.backend_for(len(source.store))
        or changed_rows > RETRAIN_AFTER * trained_rows
    ):
        return None
    index.delete(deleted)
    index.upsert(upserted, source.store.vectors[[source.store.row_of[key] for key in upserted]])
    target, changed = request.recall_target, [index.store.row_of[key] for key in upserted]
    if not _reaches(index, target, changed) and not tune.tune(
        index, target, progress=request.progress, changed=changed
    ):
        return None
    manifest = _manifest(index, source, request, trained_rows=trained_rows)
    rows = source.rows.take([source.store.row_of[key] for key in index.store.keys])
    return bundle.publish(
        request.output, Bundle(replace(manifest, changed_rows=changed_rows), index, rows, [])
    )


def _reaches(index: ScannIndex, target: float, changed: Sequence[int]) -> bool:
    """Whether the recall holds, in all and on the rows that the index was not trained on."""
    samples = [tune.samples(len(index.store))[1], *([tune.sample_of(changed)] if changed else [])]
    return all(tune.Referee(index, sample).recall(index) >= target for sample in samples)


def _is_up_to_date(old: Bundle, source: VectorTable, request: Request) -> bool:
    """Whether an index whose vectors are the table's is also what is asked for, with the same columns."""
    return (
        old.manifest.asked_backend == request.backend
        and old.manifest.recall_target == request.recall_target
        and source.rows.take([source.store.row_of[key] for key in old.index.store.keys]).equals(old.rows)
    )


def _manifest(
    index: VectorIndex,
    source: VectorTable,
    request: Request,
    *,
    trained_rows: int,
    notes: Sequence[str] = (),
) -> IndexManifest:
    request.progress(f"measuring the {index.backend} index of {len(index.store):,} rows")
    measured = tune.measure(index)
    return IndexManifest(
        rows=len(index.store),
        dimension=index.store.dimension,
        backend=index.backend,
        asked_backend=request.backend,
        parameters=index.parameters,
        recall_target=request.recall_target,
        recall_at_10=measured.recall,
        recall_queries=measured.queries,
        query_ms_median=measured.query_ms_median,
        query_ms_p95=measured.query_ms_p95,
        model_digest=source.model_digest,
        preprocessing_digest=source.preprocessing_digest,
        table=storage.absolute(request.table),
        table_run_id=source.run_id,
        read_to=source.read_to,
        trained_rows=trained_rows,
        skipped={reason: len(keys) for reason, keys in source.skipped.items()},
        notes=list(notes),
    )


def _require_same_makers(old: IndexManifest, source: VectorTable, output: str) -> None:
    remedy = f"build {output} anew, without --incremental"
    for what in ("model", "preprocessing"):
        expected, found = getattr(old, f"{what}_digest"), getattr(source, f"{what}_digest")
        if expected != found:
            raise DigestMismatch(what, expected=expected or "(none)", found=found or "(none)", remedy=remedy)
    if old.dimension != source.store.dimension:
        raise UsageError(
            f"the index holds vectors of {old.dimension}, the table of {source.store.dimension} dimensions; "
            f"{remedy}"
        )
