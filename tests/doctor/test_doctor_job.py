"""What a job uses, read off its options."""

import pytest

from beam_vision.doctor.cloud import apis_of
from beam_vision.doctor.job import uses_of
from beam_vision.doctor.places import needs_cloud
from beam_vision.errors import UsageError
from beam_vision.pubsub import parse_name
from beam_vision.warehouse.names import parse_table

CLOUD = {"runner": "DataflowRunner", "project": "my-project", "region": "us-central1"}


def test_buckets_are_gathered_over_options_and_lists():
    options = {"images": "gs://lake/a/*.jpg,gs://other/b", "output": "gs://lake/out", "model": "/models/m"}
    found = uses_of("predict", options, {**CLOUD, "temp_location": "gs://lake/temp"})
    assert found.buckets == {"lake": ("images", "output", "temp_location"), "other": ("images",)}
    assert found.written_buckets == {"lake"}
    assert found.folders == ()
    assert (found.on_dataflow, found.remote) == (True, True)


def test_a_local_run_uses_folders_and_nothing_of_the_cloud():
    found = uses_of("predict", {"images": "photos", "output": "table", "summary": "s.json"}, {"runner": None})
    assert found.folders == ("table", "s.json")
    assert (found.on_dataflow, found.remote, found.buckets) == (False, False, {})


def test_tables_subscriptions_and_topics_are_told_apart():
    options = {
        "input": "pubsub://projects/my-project/subscriptions/frames",
        "output": "bigquery://my-project.live.rows,pubsub://projects/my-project/topics/rows,out",
        "query": "SELECT 'gs://no/place' AS uri FROM `my-project.a.b`",
        "write_method": "storage_write_api",
    }
    found = uses_of("stream", options, {})
    assert found.tables == {parse_table("my-project.live.rows"): "output"}
    assert found.written_tables == set(found.tables)
    assert found.subscriptions == {parse_name(options["input"]): "input"}
    assert found.topics == {parse_name("projects/my-project/topics/rows"): "output"}
    assert found.folders == ("out",)
    assert found.project == "my-project"
    assert found.needs_java == "--write_method storage_write_api"
    assert not found.buckets


def test_a_query_is_no_place_but_needs_bigquery():
    query = "SELECT 1,gs://lake/%"
    found = uses_of("predict", {"query": query, "query_project": "payer-project", "output": "table"}, {})
    assert (found.queries, found.project, found.buckets, found.tables) == (True, "payer-project", {}, {})
    assert apis_of(found) == ["bigquery.googleapis.com", "bigquerystorage.googleapis.com"]
    assert needs_cloud(found)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(UsageError, match="--output"):
        uses_of("predict", {"output": "bigquery://x.y"}, {})


def test_machines_are_read_off_beams_options():
    beam = {
        **CLOUD,
        "machine_type": "g2-standard-8",
        "dataflow_service_options": [
            "enable_x",
            "worker_accelerator=type:nvidia-l4;count:2;install-nvidia-driver",
        ],
        "max_num_workers": 7,
        "use_public_ips": False,
        "sdk_container_image": "gcr.io/p/i:1",
    }
    found = uses_of("", {}, beam)
    assert (found.accelerator, found.accelerators, found.machine_type) == ("nvidia-l4", 2, "g2-standard-8")
    assert (found.workers, found.public_ips, found.image) == (7, False, "gcr.io/p/i:1")
    assert uses_of("", {}, CLOUD).public_ips
