"""Which vector index a table in BigQuery should have, if any, and the statement that makes it. Pure.

Each rule names the page of cloud.google.com/bigquery that it is from; limits are those of /bigquery/quotas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from beam_vision.errors import UsageError
from beam_vision.warehouse import cost
from beam_vision.warehouse.names import TableName, quoted

LEAST_TABLE_BYTES = 10_000_000
"""Below it an index is not populated (quotas: minimum table size for vector index population)."""
LEAST_ROWS = 5_000
"""A table must have as many for an index to be made (quotas)."""
MOST_ELEMENTS = 4_096
"""Elements of the indexed array (quotas; 1,600 until 2025)."""
MOST_IVF_ROWS = 10_000_000_000
MOST_TREE_AH_ROWS = 200_000_000
"""For a partitioned index: of each partition (quotas)."""
MOST_FREE_BYTES = 6 * 10**12
"""Indexed tables of an organization that are indexed free of charge, without a reservation (quotas)."""
LARGE_BATCH = 100
"""TREE_AH is for "hundreds or more query vectors" (docs/vector-index); our reading of it."""
MOST_LISTS = 5_000
LEAST_LEAF = 500
UNIT_TOLERANCE = 1e-3

KINDS = ("IVF", "TREE_AH")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the index is for.

    Attributes:
      rows, table_bytes: of the whole table, as BigQuery counts them.
      dim: the length of each vector.
      batch: how many query vectors a usual query has.
      filters: columns that searches filter on.
      partition_column: the column that the table is partitioned by; "" for none, or by the time of ingestion.
      partition_unit: ``DAY``, ``HOUR``, ``MONTH`` or ``YEAR``.
      partition_type: the type of that column.
      least_norm, greatest_norm: of the vectors, as far as they were looked at; None: not known.
    """

    rows: int
    table_bytes: int
    dim: int
    batch: int = 1
    filters: tuple[str, ...] = ()
    partition_column: str = ""
    partition_unit: str = "DAY"
    partition_type: str = "TIMESTAMP"
    least_norm: float | None = None
    greatest_norm: float | None = None

    @property
    def unit_vectors(self) -> bool | None:
        """Whether all vectors that were looked at have length 1; None: not known."""
        if self.least_norm is None or self.greatest_norm is None:
            return None
        return max(abs(self.least_norm - 1), abs(self.greatest_norm - 1)) <= UNIT_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Advice:
    """An index, or none.

    Attributes:
      kind: ``IVF``, ``TREE_AH``, or "" for none.
      storing: columns for its ``STORING`` clause.
      partition_by: the expression of its ``PARTITION BY`` clause; "" for none.
      num_lists: of IVF; 0: BigQuery's choice.
      leaf_embeddings: of TREE_AH, ``leaf_node_embedding_count``; 0: BigQuery's choice.
      normalize: of TREE_AH: whether vectors are scaled to length 1 in the index.
      reasons: why so, a sentence each.
    """

    kind: str
    storing: tuple[str, ...] = ()
    partition_by: str = ""
    num_lists: int = 0
    leaf_embeddings: int = 0
    normalize: bool = False
    reasons: tuple[str, ...] = ()


def advise(
    needs: Needs,
    *,
    kind: str = "",
    num_lists: int = 0,
    leaf_embeddings: int = 0,
    storing: Sequence[str] = ("key",),
) -> Advice:
    """The index for these needs.

    Args:
      kind: ask for this kind, whatever would be advised; BigQuery's limits still hold.
      num_lists, leaf_embeddings: ask for these; 0: BigQuery's choice, which "works well for most use cases".
      storing: columns that searches select, beside the filters: where IVF stores all that a query selects,
        the join with the table is saved; TREE_AH never saves it, and stores filters only (docs/vector-index,
        "Pre-filter with stored columns").

    Raises:
      UsageError: what is asked for is no kind of index, or its options are out of range or of another kind.
    """
    chosen, reasons = _kind(needs, kind)
    _check(chosen or kind, num_lists, leaf_embeddings)
    if not chosen:
        return Advice(kind="", reasons=(*reasons, _brute_force(needs)))
    partition_by, more = _partition(needs, chosen)
    filters = [each for each in needs.filters if not (partition_by and each == needs.partition_column)]
    stored = tuple(dict.fromkeys([*(storing if chosen == "IVF" else ()), *filters]))
    normalize, about_norms = _norms(needs, chosen)
    reasons += [*more, *about_norms, *_about_stored(stored, filters, chosen), *_about_size(needs, chosen)]
    return Advice(
        kind=chosen,
        storing=stored,
        partition_by=partition_by,
        num_lists=num_lists,
        leaf_embeddings=leaf_embeddings,
        normalize=normalize,
        reasons=(*reasons, _brute_force(needs)),
    )


def _kind(needs: Needs, asked: str) -> tuple[str, list[str]]:
    """The kind of index and why; "" where BigQuery would make none, or it would be no use."""
    if asked and asked not in KINDS:
        raise UsageError(f"{asked!r} is no kind of index; it is one of {', '.join(KINDS)}")
    refused = _refused(needs)
    if refused:
        return "", [refused]
    partitioned = needs.partition_column in needs.filters
    too_many = needs.rows > MOST_TREE_AH_ROWS and not partitioned
    if asked == "TREE_AH" and too_many:
        return "", [f"{needs.rows:,} rows are more than TREE_AH takes: {MOST_TREE_AH_ROWS:,} (a partition)"]
    if asked == "TREE_AH" and needs.batch < LARGE_BATCH:
        return asked, [
            f"TREE_AH, as asked for; warning: on small batches of queries (here {needs.batch}) BigQuery "
            "often leaves it unused"
        ]
    if asked:
        return asked, [f"{asked}, as asked for"]
    if needs.batch < LARGE_BATCH:
        return "IVF", [
            f"IVF: for small batches of queries (here {needs.batch}); TREE_AH, which is made for hundreds at "
            "once, often falls back to brute force on so few"
        ]
    if too_many:
        return "IVF", [f"IVF: {needs.rows:,} rows are more than TREE_AH takes ({MOST_TREE_AH_ROWS:,})"]
    return "TREE_AH", [f"TREE_AH: made for large batches of queries (here {needs.batch}), on packed vectors"]


def _refused(needs: Needs) -> str:
    if not 2 <= needs.dim <= MOST_ELEMENTS:
        return f"none: vectors of {needs.dim} numbers can't be indexed; 2 to {MOST_ELEMENTS:,} can"
    if needs.rows < LEAST_ROWS:
        return f"none: {needs.rows:,} rows; BigQuery makes no index of a table with under {LEAST_ROWS:,}"
    if needs.table_bytes < LEAST_TABLE_BYTES:
        return (
            f"none: the table has {cost.size(needs.table_bytes)}; under 10 MB an index stays empty and unused"
        )
    if needs.rows > MOST_IVF_ROWS:
        return f"none: {needs.rows:,} rows are more than any index takes: {MOST_IVF_ROWS:,}"
    return ""


def _check(kind: str, num_lists: int, leaf_embeddings: int) -> None:
    if num_lists and (kind == "TREE_AH" or not 1 <= num_lists <= MOST_LISTS):
        raise UsageError(f"num_lists {num_lists}: IVF takes 1 to {MOST_LISTS:,} lists, TREE_AH takes none")
    if leaf_embeddings and (kind == "IVF" or leaf_embeddings < LEAST_LEAF):
        raise UsageError(
            f"leaf_node_embedding_count {leaf_embeddings}: TREE_AH takes {LEAST_LEAF} or more, IVF none"
        )


def _partition(needs: Needs, kind: str) -> tuple[str, list[str]]:
    """The PARTITION BY clause: TREE_AH only, and only when most searches filter on that column
    (docs/vector-index, "Pre-filter with partitions"); it must be the table's own."""
    column = needs.partition_column
    if not column or column not in needs.filters:
        return "", []
    if kind == "IVF":
        return "", [f"the index is not partitioned by {column}: IVF can't be; the column is stored instead"]
    name = quoted(column)
    if needs.partition_type == "DATE":
        by = name if needs.partition_unit == "DAY" else f"DATE_TRUNC({name}, {needs.partition_unit})"
    else:
        by = f"{needs.partition_type}_TRUNC({name}, {needs.partition_unit})"
    return by, [f"partitioned as the table is: a filter on {column} then leaves out whole partitions"]


def _norms(needs: Needs, kind: str) -> tuple[bool, list[str]]:
    """Whether the index should scale vectors to length 1.

    Indexes are always trained by Euclidean distance (docs/vector-index). On unit vectors that is the order
    of the cosine, as ``|a - b|^2 = 2 - 2 cos(a, b)``; on others it is not, and near neighbours by the cosine
    lie in lists that are not searched.
    """
    if needs.unit_vectors is not False:
        return False, ["the vectors have length 1, so no normalization"] if needs.unit_vectors else []
    found = f"vectors have lengths from {needs.least_norm:.3g} to {needs.greatest_norm:.3g}"
    if kind == "TREE_AH":
        return True, [f"normalization L2: {found}, and the index is trained by Euclidean distance"]
    return False, [
        f"warning: {found}, and IVF is trained by Euclidean distance, so its recall by cosine may be low; "
        "write vectors of length 1, or take TREE_AH with its normalization"
    ]


def _about_stored(stored: Sequence[str], filters: Sequence[str], kind: str) -> list[str]:
    said = []
    if filters:
        said.append(
            f"stores {', '.join(filters)}: a filter on a stored column is applied before the search; on any "
            "other after it, when fewer than k rows may be left"
        )
    if "attributes" in filters:
        said.append(
            "warning: a filter on attributes[...] holds a subquery, which may keep the index from use; a "
            "column of its own is better"
        )
    rest = [each for each in stored if each not in filters]
    if kind == "IVF" and rest:
        said.append(f"stores {', '.join(rest)}: a search that selects stored columns alone needs no join")
    return said


def _about_size(needs: Needs, kind: str) -> list[str]:
    vectors = needs.rows * cost.embedding_bytes(needs.dim)
    said = []
    if kind == "IVF":
        price = cost.money(cost.storage_usd(vectors))
        said.append(f"it stores about as much as the column: {cost.size(vectors)}, {price} a month")
    if needs.table_bytes > MOST_FREE_BYTES:
        said.append(
            "indexing needs a reservation of its own: tables beyond 6 TB an organization are not free"
        )
    return said


def _brute_force(needs: Needs) -> str:
    vectors = needs.rows * cost.embedding_bytes(needs.dim)
    return f"without an index a query, of any number of vectors, {cost.Cost(vectors).text}"


def create_sql(
    name: TableName, index: str, advice: Advice, *, column: str = "embedding", replace: bool = False
) -> str:
    """The statement that makes the index; its default distance is the cosine, as everywhere here.

    Raises:
      UsageError: a column's or the index's name is none, or the indexed column is to be stored, too.
    """
    if column in advice.storing:
        raise UsageError(f"{column} is the indexed column; an index can't store it as well")
    options = [f"index_type = '{advice.kind}'", "distance_type = 'COSINE'"]
    inner: dict[str, int | str] = {}
    if advice.num_lists:
        inner["num_lists"] = advice.num_lists
    if advice.leaf_embeddings:
        inner["leaf_node_embedding_count"] = advice.leaf_embeddings
    if advice.normalize:
        inner["normalization_type"] = "L2"
    if inner:
        options.append(f"{advice.kind.lower()}_options = '{json.dumps(inner)}'")
    lines = [
        f"CREATE {'OR REPLACE ' if replace else ''}VECTOR INDEX {quoted(index)}",
        f"ON {name.sql}({quoted(column)})",
    ]
    if advice.storing:
        lines.append(f"STORING ({', '.join(map(quoted, advice.storing))})")
    if advice.partition_by:
        lines.append(f"PARTITION BY {advice.partition_by}")
    return "\n".join([*lines, f"OPTIONS ({', '.join(options)})"])
