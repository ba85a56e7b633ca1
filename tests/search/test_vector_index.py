"""Which vector index is advised, what BigQuery says of one, and its recall."""

import datetime
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.search import vector_index as indexes
from beam_vision.search import vector_index_state as states
from beam_vision.search import vector_index_use as uses
from beam_vision.search.vector_index import Advice, Needs, advise, create_sql
from beam_vision.search.vector_index_recall import recall_of, sample_sql
from beam_vision.warehouse.names import TableName

NAME = TableName("my-project", "lake", "images")
UNIT = {"least_norm": 1.0, "greatest_norm": 1.0}
NEEDS = Needs(rows=1_000_000, table_bytes=11_000_000_000, dim=1280, filters=("label",), **UNIT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table_bytes": indexes.LEAST_TABLE_BYTES - 1}, "under 10 MB"),
        ({"rows": indexes.LEAST_ROWS - 1}, "under 5,000"),
        ({"dim": 4097}, "4,096"),
        ({"dim": 1}, "2 to"),
        ({"rows": indexes.MOST_IVF_ROWS + 1}, "more than any index takes"),
    ],
)
def test_no_index_where_bigquery_would_make_none(change, said):
    for kind in ("", "IVF", "TREE_AH"):
        advice = advise(replace(NEEDS, **change), kind=kind)
        assert advice.kind == ""
        assert said in advice.reasons[0]
        assert "without an index" in advice.reasons[-1]


def test_a_table_just_large_enough_gets_one():
    assert (
        advise(replace(NEEDS, table_bytes=indexes.LEAST_TABLE_BYTES, rows=indexes.LEAST_ROWS)).kind == "IVF"
    )


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"batch": 1}, "IVF"),
        ({"batch": indexes.LARGE_BATCH - 1}, "IVF"),
        ({"batch": indexes.LARGE_BATCH}, "TREE_AH"),
        ({"batch": 500, "rows": indexes.MOST_TREE_AH_ROWS}, "TREE_AH"),
        ({"batch": 500, "rows": indexes.MOST_TREE_AH_ROWS + 1}, "IVF"),
        (
            {
                "batch": 500,
                "rows": indexes.MOST_TREE_AH_ROWS + 1,
                "partition_column": "written_at",
                "filters": ("written_at",),
            },
            "TREE_AH",
        ),
    ],
)
def test_few_queries_at_once_get_ivf_and_hundreds_tree_ah_up_to_its_rows(change, kind):
    assert advise(replace(NEEDS, **change)).kind == kind


def test_ivf_stores_what_is_selected_and_filtered_and_tree_ah_only_what_is_filtered():
    needs = replace(NEEDS, filters=("label", "camera"))
    assert advise(needs, storing=("key", "label")).storing == ("key", "label", "camera")
    assert advise(replace(needs, batch=500), storing=("key",)).storing == ("label", "camera")


def test_the_partitioning_column_partitions_tree_ah_and_is_stored_in_ivf():
    needs = replace(
        NEEDS, filters=("label", "written_at"), partition_column="written_at", partition_unit="DAY"
    )
    large = advise(replace(needs, batch=500))
    assert large.partition_by == "TIMESTAMP_TRUNC(`written_at`, DAY)"
    assert large.storing == ("label",)
    small = advise(needs)
    assert (small.partition_by, small.storing) == ("", ("key", "label", "written_at"))
    assert advise(replace(needs, batch=500, filters=("label",))).partition_by == ""
    days = replace(needs, batch=500, partition_type="DATE")
    assert advise(days).partition_by == "`written_at`"
    assert advise(replace(days, partition_unit="MONTH")).partition_by == "DATE_TRUNC(`written_at`, MONTH)"


def test_vectors_of_other_lengths_are_normalized_by_tree_ah_and_a_warning_in_ivf():
    long = replace(NEEDS, least_norm=0.5, greatest_norm=40.0)
    assert advise(replace(long, batch=500)).normalize
    ivf = advise(long)
    assert not ivf.normalize
    assert any("warning" in reason and "Euclidean" in reason for reason in ivf.reasons)
    assert not advise(replace(NEEDS, batch=500)).normalize
    assert not advise(replace(NEEDS, batch=500, least_norm=None)).normalize


@given(st.integers(2, 64), st.integers(0, 2**32 - 1))
def test_on_unit_vectors_the_order_by_distance_is_the_order_by_cosine(dim, seed):
    """Why no normalization is needed for ours: see ``_norms``."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(20, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors[1:] @ vectors[0]
    squared = ((vectors[1:] - vectors[0]) ** 2).sum(1)
    np.testing.assert_allclose(squared, 2 - 2 * cosines, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "HNSW"}, "no kind of index"),
        ({"num_lists": 5001}, "1 to 5,000"),
        ({"kind": "TREE_AH", "num_lists": 100}, "TREE_AH takes none"),
        ({"kind": "TREE_AH", "leaf_embeddings": 499}, "500 or more"),
        ({"leaf_embeddings": 1000}, "IVF none"),
    ],
)
def test_options_that_bigquery_would_refuse_are_refused_first(options, said):
    with pytest.raises(UsageError, match=said):
        advise(NEEDS, **options)


def test_what_is_asked_for_is_made_with_a_warning_where_it_would_go_unused():
    advice = advise(NEEDS, kind="TREE_AH", leaf_embeddings=2000)
    assert (advice.kind, advice.leaf_embeddings) == ("TREE_AH", 2000)
    assert "warning" in advice.reasons[0]
    too_many = replace(NEEDS, rows=indexes.MOST_TREE_AH_ROWS + 1)
    assert advise(too_many, kind="TREE_AH").kind == ""


def test_a_filter_on_attributes_and_a_table_beyond_the_free_limit_are_warned_of():
    reasons = " ".join(advise(replace(NEEDS, filters=("attributes",), table_bytes=7 * 10**12)).reasons)
    assert "subquery" in reasons
    assert "reservation" in reasons


def test_the_statement_is_in_the_order_of_bigquerys_grammar():
    """Grammar: docs/reference/standard-sql/data-definition-language#create_vector_index_statement."""
    advice = Advice(
        kind="TREE_AH",
        storing=("label", "camera"),
        partition_by="TIMESTAMP_TRUNC(`written_at`, DAY)",
        leaf_embeddings=1000,
        normalize=True,
    )
    assert create_sql(NAME, "embedding_index", advice, replace=True) == (
        "CREATE OR REPLACE VECTOR INDEX `embedding_index`\n"
        "ON `my-project.lake.images`(`embedding`)\n"
        "STORING (`label`, `camera`)\n"
        "PARTITION BY TIMESTAMP_TRUNC(`written_at`, DAY)\n"
        "OPTIONS (index_type = 'TREE_AH', distance_type = 'COSINE', tree_ah_options = "
        '\'{"leaf_node_embedding_count": 1000, "normalization_type": "L2"}\')'
    )
    assert create_sql(NAME, "i", Advice(kind="IVF", num_lists=2500)).splitlines() == [
        "CREATE VECTOR INDEX `i`",
        "ON `my-project.lake.images`(`embedding`)",
        "OPTIONS (index_type = 'IVF', distance_type = 'COSINE', ivf_options = '{\"num_lists\": 2500}')",
    ]


@pytest.mark.parametrize(
    ("index", "column", "storing"),
    [("i`; DROP TABLE x", "embedding", ()), ("i", "a) OPTIONS", ()), ("i", "embedding", ("a`b",))],
)
def test_no_name_gets_into_a_statement_unchecked(index, column, storing):
    with pytest.raises(UsageError, match="can't be a column"):
        create_sql(NAME, index, Advice(kind="IVF", storing=storing), column=column)


def test_the_indexed_column_is_not_stored_twice():
    with pytest.raises(UsageError, match="store it as well"):
        create_sql(NAME, "i", Advice(kind="IVF", storing=("embedding",)))


# Rows of docs/information-schema-vector-indexes, with the statements that its example shows.
IVF_DDL = (
    "CREATE VECTOR INDEX `indexa` ON `my_project.my_dataset.table1`(embeddings)\n"
    "OPTIONS (distance_type = 'EUCLIDEAN', index_type = 'IVF', ivf_options = '{\"num_lists\": 100}')"
)
TREE_DDL = (
    "CREATE VECTOR INDEX `indexc` ON `my_project.my_dataset.table3`(vectors)\n"
    "STORING (`label`,\n  camera)\nPARTITION BY TIMESTAMP_TRUNC(produced_time, HOUR)\n"
    "OPTIONS (distance_type = 'DOT_PRODUCT', index_type = 'TREE_AH',\n"
    'tree_ah_options = \'{"leaf_node_embedding_count": 1000, "normalization_type": "NONE"}\')'
)


def test_an_index_is_read_from_its_row_and_statement():
    row = {"index_name": "indexc", "index_status": "ACTIVE", "ddl": TREE_DDL, "coverage_percentage": 98}
    index = states.from_row({**row, "unindexed_row_count": 7, "disable_reason": None})
    assert (index.kind, index.column) == ("TREE_AH", "vectors")
    assert index.storing == ("label", "camera")
    assert index.partition_by == "TIMESTAMP_TRUNC(produced_time, HOUR)"
    assert (index.usable, index.complete, index.unindexed_rows) == (True, False, 7)
    other = states.from_row({"index_name": "indexa", "ddl": IVF_DDL, "coverage_percentage": None})
    assert (other.kind, other.column, other.storing, other.partition_by) == ("IVF", "embeddings", (), "")
    assert not other.usable


def test_an_index_reads_as_it_was_asked_for():
    advice = Advice(kind="TREE_AH", storing=("label",), partition_by="TIMESTAMP_TRUNC(`written_at`, DAY)")
    index = states.IndexState(name="i", ddl=create_sql(NAME, "i", advice, column="embedding_ab12"))
    assert (index.kind, index.column, index.storing) == ("TREE_AH", "embedding_ab12", ("label",))
    assert index.partition_by == "TIMESTAMP_TRUNC(`written_at`, DAY)"


@pytest.mark.parametrize(
    ("status", "coverage", "usable"),
    [
        ("ACTIVE", 1, True),
        ("ACTIVE", 0, False),
        ("PENDING DISABLEMENT", 100, True),
        ("TEMPORARILY DISABLED", 100, False),
        ("PERMANENTLY DISABLED", 100, False),
    ],
)
def test_an_index_is_usable_as_the_documentation_says(status, coverage, usable):
    assert states.IndexState(name="i", status=status, coverage_percent=coverage).usable is usable


def test_a_rebuild_is_advised_for_drift_and_for_lost_recall():
    assert states.rebuild_reason(drift=0.29) == ""
    assert "0.30" in states.rebuild_reason(drift=0.3)
    assert states.rebuild_reason(drift=None, recalls=[0.93, 0.97]) == ""
    assert "0.970" in states.rebuild_reason(drift=0.1, recalls=[0.91, 0.97, 0.95])
    assert states.rebuild_reason(drift=None, recalls=[0.5]) == ""


# Every code of docs/reference/rest/v2/Job#IndexUnusedReason (vectors and texts share the list).
CODES = {
    *("INDEX_CONFIG_NOT_AVAILABLE", "PENDING_INDEX_CREATION", "BASE_TABLE_TRUNCATED"),
    *("INDEX_CONFIG_MODIFIED", "TIME_TRAVEL_QUERY", "NO_PRUNING_POWER", "UNINDEXED_SEARCH_FIELDS"),
    *("UNSUPPORTED_SEARCH_PATTERN", "OPTIMIZED_WITH_MATERIALIZED_VIEW", "SECURED_BY_DATA_MASKING"),
    *("MISMATCHED_TEXT_ANALYZER", "BASE_TABLE_TOO_SMALL", "BASE_TABLE_TOO_LARGE"),
    *("ESTIMATED_PERFORMANCE_GAIN_TOO_LOW", "COLUMN_METADATA_INDEX_NOT_USED"),
    *("NOT_SUPPORTED_IN_STANDARD_EDITION", "INDEX_SUPPRESSED_BY_FUNCTION_OPTION", "QUERY_CACHE_HIT"),
    *("STALE_INDEX", "INTERNAL_ERROR", "OTHER_REASON"),
}
STORED_CODES = {
    *("STORED_COLUMNS_COVER_INSUFFICIENT", "BASE_TABLE_HAS_RLS", "BASE_TABLE_HAS_CLS"),
    *("UNSUPPORTED_PREFILTER", "INTERNAL_ERROR", "OTHER_REASON"),
}


def test_every_reason_of_bigquerys_has_plain_words():
    assert set(uses.REASONS) == CODES
    assert set(uses.STORED_REASONS) == STORED_CODES


def test_why_an_index_was_not_used_is_said_plainly_with_bigquerys_own_words():
    """The example of docs/vector-index#vector_index_usage."""
    statistics = {
        "vectorSearchStatistics": {
            "indexUnusedReasons": [
                {
                    "baseTable": {
                        "datasetId": "my_dataset",
                        "projectId": "my_project",
                        "tableId": "my_table",
                    },
                    "code": "INDEX_SUPPRESSED_BY_FUNCTION_OPTION",
                    "message": "No vector index was used for the base table `my_project:my_dataset.my_table` "
                    "because use_brute_force option has been specified.",
                }
            ],
            "indexUsageMode": "UNUSED",
        }
    }
    use = uses.from_statistics(statistics)
    assert use.mode == "UNUSED"
    assert "the answer is exact" in use.text
    assert "asked for brute force" in use.text
    assert "`my_project:my_dataset.my_table`" in use.text


def test_stored_columns_that_did_not_do_are_named():
    statistics = {
        "vectorSearchStatistics": {
            "indexUsageMode": "FULLY_USED",
            "storedColumnsUsages": [
                {
                    "isQueryAccelerated": False,
                    "storedColumnsUnusedReasons": [
                        {"code": "STORED_COLUMNS_COVER_INSUFFICIENT", "uncoveredColumns": ["uri", "label"]}
                    ],
                }
            ],
        }
    }
    assert "uri, label" in uses.from_statistics(statistics).text
    assert uses.from_statistics({}).text == "the query had no vector search"
    new = {"indexUsageMode": "UNUSED", "indexUnusedReasons": [{"code": "FROM_THE_FUTURE"}]}
    assert "FROM_THE_FUTURE" in uses.from_statistics({"vectorSearchStatistics": new}).text


def test_the_sample_is_the_same_with_and_without_the_index():
    asked = {"column": "embedding", "k": 10, "sample": 50}
    mine = sample_sql(NAME, **asked, brute_force=False)
    exact = sample_sql(NAME, **asked, brute_force=True)
    assert mine.replace("'{}'", "") == exact.replace("'{\"use_brute_force\": true}'", "")
    assert mine != exact
    assert "top_k => 11" in mine
    assert "LIMIT 50" in mine
    with pytest.raises(UsageError):
        sample_sql(NAME, column="a'b", k=1, sample=1, brute_force=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 12))
def test_recall_is_the_share_of_true_neighbours_that_were_found(seed, k, rows):
    rng = np.random.default_rng(seed)
    distances = rng.permutation(rows * rows).reshape(rows, rows) / 10
    kept = rng.random((rows, rows)) < 0.7
    names = [f"k{i}" for i in range(rows)]
    every = [(names[i], names[j], float(distances[i, j])) for i in range(rows) for j in range(rows)]
    found = [row for row in every if kept[names.index(row[0]), names.index(row[1])]]
    expected = []
    for i in range(rows):
        others = [j for j in np.argsort(distances[i]) if j != i][:k]
        expected.append(sum(bool(kept[i, j]) for j in others) / len(others))
    assert recall_of(found, every, k) == pytest.approx(expected)
    assert recall_of(every, every, k) == [1.0] * rows


def test_ties_with_the_last_true_neighbour_are_no_misses():
    exact = [("q", "a", 0.1), ("q", "b", 0.2), ("q", "q", 0.0)]
    found = [("q", "a", 0.1), ("q", "c", 0.2 + 1e-9), ("q", "q", 0.0)]
    assert recall_of(found, exact, 2) == [1.0]
    assert recall_of([("q", "q", 0.0)], exact, 2) == [0.0]
    assert recall_of(found, [("q", "q", 0.0)], 2) == []


def test_recalls_are_compared_within_a_build_and_a_k_and_only_where_the_index_was_used():
    from beam_vision.search.vector_index_history import recalls_of

    built, before = datetime.datetime(2026, 11, 22), datetime.datetime(2026, 11, 1)
    row = {"recall": 0.9, "built_at": built, "k": 10, "index_use": "FULLY_USED"}
    history = [
        row,
        {**row, "recall": 1.0, "index_use": "UNUSED"},
        {**row, "recall": 0.95},
        {**row, "recall": 0.99, "built_at": before},
        {**row, "recall": 0.98, "k": 1},
    ]
    index = states.IndexState(name="i", last_build=built)
    assert recalls_of(history, index, 10) == [0.9, 0.95]
    assert recalls_of([], index, 10) == []
