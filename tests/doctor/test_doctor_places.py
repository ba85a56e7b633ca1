"""Buckets, datasets and subscriptions: a cloud on loopback, and the emulators of each service."""

import dataclasses

import pytest
from google.pubsub_v1.types import Subscription

from beam_vision import pubsub as names
from beam_vision.doctor import places
from beam_vision.doctor.google import Google
from beam_vision.doctor.job import Uses
from beam_vision.warehouse.names import parse_table

LAKE = Uses(
    region="us-central1",
    buckets={"lake": ("images", "output")},
    written_buckets=frozenset({"lake"}),
)
SUBSCRIPTION = names.parse_name("pubsub://projects/my-project/subscriptions/frames")


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({"location": "US-CENTRAL1"}, "ok"),
        ({"location": "US"}, "ok"),
        ({"location": "NAM4"}, "ok"),
        ({"location": "US", "customPlacementConfig": {"dataLocations": ["US-EAST1", "US-WEST1"]}}, "warn"),
        ({"location": "EUROPE-WEST4"}, "warn"),
    ],
)
def test_a_bucket_is_near_or_costs(cloud, google, find, facts, status):
    cloud.buckets["lake"] = facts
    (found,) = find(places.check_bucket, google, LAKE, "lake").values()
    assert found.status == status
    assert "--images, --output" in found.said
    if status == "warn":
        assert facts["location"].lower() in found.said
        assert found.remedy.startswith("use a bucket in us-central1")


def test_a_bucket_that_is_not_there_is_made_by_a_command(cloud, google, find):
    found = find(places.check_bucket, google, LAKE, "lake")["bucket lake"]
    assert found.status == "fail"
    assert found.remedy == "gcloud storage buckets create gs://lake --location=us-central1"


def test_what_is_only_read_need_not_be_written_to(cloud, google, find):
    cloud.buckets["lake"] = {"location": "US"}
    cloud.denied = {"storage.objects.create"}
    found = find(places.check_bucket, google, LAKE, "lake")["bucket lake"]
    assert (found.status, found.remedy) == ("fail", "grant it roles/storage.objectAdmin")
    assert "storage.objects.create" in found.said
    only_read = dataclasses.replace(LAKE, written_buckets=frozenset())
    assert find(places.check_bucket, google, only_read, "lake")["bucket lake"].status == "ok"
    cloud.denied = {"storage.objects.get"}
    found = find(places.check_bucket, google, only_read, "lake")["bucket lake"]
    assert (found.status, found.remedy) == ("fail", "grant it roles/storage.objectViewer")


def test_temporary_files_that_are_kept_and_paid_for_are_a_warning(cloud, google, find):
    cloud.buckets["lake"] = {"location": "US", "softDeletePolicy": {"retentionDurationSeconds": "604800"}}
    assert find(places.check_bucket, google, LAKE, "lake")["bucket lake"].status == "ok"
    uses = dataclasses.replace(LAKE, buckets={"lake": ("temp_location",)})
    found = find(places.check_bucket, google, uses, "lake")["bucket lake"]
    assert found.status == "warn"
    assert "7 days" in found.said
    assert found.remedy == "gcloud storage buckets update gs://lake --clear-soft-delete"
    cloud.buckets["lake"] = {"location": "US", "retentionPolicy": {"retentionPeriod": "60"}}
    assert "retention policy" in find(places.check_bucket, google, uses, "lake")["bucket lake"].said


def test_buckets_of_the_storage_emulator(gcs, monkeypatch, find):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    uses = dataclasses.replace(LAKE, region="", buckets={"lake": ("images",), "none": ("output",)})
    with Google() as google:
        assert "EUROPE" not in find(places.check_bucket, google, uses, "lake")["bucket lake"].said
        assert find(places.check_bucket, google, uses, "none")["bucket none"].status == "fail"
    assert not places.needs_cloud(uses)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert places.needs_cloud(uses)


def test_datasets_of_the_bigquery_emulator(warehouse, find):
    made, missing = warehouse.name("rows"), parse_table(f"bigquery://{warehouse.project}.nowhere.rows")
    uses = Uses(tables={made: "output", missing: "images"}, written_tables=frozenset({made}))
    with Google() as google:
        found = find(places.check_dataset, google, uses, made)
        assert [one.status for one in found.values()] == ["ok"], (
            "a table that is written may not be there yet"
        )
        (gone,) = find(places.check_dataset, google, uses, missing).values()
        assert (gone.status, gone.remedy) == ("fail", f"bq mk --dataset {warehouse.project}:nowhere")
        read = Uses(tables={made: "images"})
        assert find(places.check_dataset, google, read, made)[f"table {made.path}"].status == "fail"
        far = dataclasses.replace(uses, region="mars-central1")
        assert (
            find(places.check_dataset, google, far, made)[f"dataset {made.project}.{made.dataset}"].status
            == "warn"
        )


def test_subscriptions_and_topics_of_the_pubsub_emulator(pubsub, find):
    topic = pubsub.topic("frames")
    dead = pubsub.topic("dead")
    bare = names.parse_name(pubsub.subscription(topic, ack_deadline_seconds=10))
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 7}
    good = names.parse_name(pubsub.subscription(topic, dead_letter_policy=policy))
    gone = names.parse_name(f"projects/{pubsub.project}/subscriptions/gone")
    with Google() as google:
        found = find(places.check_subscription, google, Uses(), good)
        assert {one.status for one in found.values()} == {"ok"}
        assert found["dead letter"].said == f"{dead}, after 7 deliveries"
        found = find(places.check_subscription, google, Uses(), bare)
        assert (found["dead letter"].status, found["ack deadline"].status) == ("warn", "warn")
        assert (
            found["ack deadline"].remedy
            == f"gcloud pubsub subscriptions update {bare.path} --ack-deadline=60"
        )
        (missing,) = find(places.check_subscription, google, Uses(), gone).values()
        assert missing.status == "fail"
        assert missing.remedy.startswith("gcloud pubsub subscriptions create gone")
        uses = Uses(topics={names.parse_name(topic): "output"})
        assert find(places.check_topic, google, uses, names.parse_name(topic))["topic frames"].status == "ok"
        other = names.parse_name(f"projects/{pubsub.project}/topics/other")
        assert find(places.check_topic, google, uses, other)["topic other"].status == "fail"


@pytest.mark.parametrize(
    ("settings", "name", "status"),
    [
        ({}, "dead letter", "ok"),
        ({"dead_letter_policy": {"dead_letter_topic": "t"}}, "dead letter", "warn"),
        ({"ack_deadline_seconds": 10}, "ack deadline", "ok"),
        ({"enable_exactly_once_delivery": True}, "exactly-once delivery", "warn"),
        ({"retry_policy": {"minimum_backoff": {"seconds": 10}}}, "retry policy", "warn"),
        ({"push_config": {"push_endpoint": "https://x"}}, "subscription frames", "fail"),
        ({"bigquery_config": {"table": "p.d.t"}}, "subscription frames", "fail"),
        ({"detached": True}, "subscription frames", "fail"),
        ({"topic": "_deleted-topic_"}, "subscription frames", "fail"),
    ],
)
def test_what_settings_mean_for_dataflow(settings, name, status, find):
    found = find(
        places.read_subscription, SUBSCRIPTION, Subscription(**{"topic": "t", **settings}), on_dataflow=True
    )
    assert found[name].status == status
    assert bool(found[name].remedy) == (status != "ok")
    others = [one.status for one in found.values() if one.name != name]
    assert set(others) <= {"ok"}
