"""What a job reads and writes in the cloud: buckets, datasets, subscriptions; and whether they are near."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from beam_vision import pubsub
from beam_vision.doctor.base import FAIL, OK, WARN, Finding
from beam_vision.doctor.google import EMULATOR_REST, STORAGE_EMULATOR, Google
from beam_vision.doctor.job import Uses
from beam_vision.regions import is_near
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from google.pubsub_v1.types import Subscription

READS = ("storage.objects.get", "storage.objects.list")
WRITES = (*READS, "storage.objects.create", "storage.objects.delete")
_TEMPORARY = frozenset({"temp_location", "staging_location", "staging"})
_DELETED_TOPIC = "_deleted-topic_"
_LEAST_DEADLINE_SEC = 30
_DELIVERIES = 5


def check_bucket(google: Google, uses: Uses, bucket: str) -> Iterator[Finding]:
    """Whether a bucket is there, near, and may be used by this account."""
    from google.api_core import exceptions

    name, options = f"bucket {bucket}", ", ".join(f"--{option}" for option in uses.buckets[bucket])
    try:
        facts = google.get("storage", f"/storage/v1/b/{bucket}")
    except exceptions.NotFound:
        where = f" --location={uses.region}" if uses.region else ""
        remedy = f"gcloud storage buckets create gs://{bucket}{where}"
        yield Finding(name, FAIL, f"not there ({options})", remedy)
        return
    yield _place(name, facts, uses.region, options, f"a bucket in {uses.region}")
    wanted = WRITES if bucket in uses.written_buckets else READS
    answer = google.get(
        "storage", f"/storage/v1/b/{bucket}/iam/testPermissions", {"permissions": list(wanted)}
    )
    missing = [one for one in wanted if one not in answer.get("permissions", ())]
    if missing:
        role = "roles/storage.objectAdmin" if wanted is WRITES else "roles/storage.objectViewer"
        yield Finding(name, FAIL, f"this account lacks {', '.join(missing)} ({options})", f"grant it {role}")
    yield from _policies(name, facts, uses, bucket)


def _policies(name: str, facts: dict[str, Any], uses: Uses, bucket: str) -> Iterator[Finding]:
    """What keeps deleted files, and is paid for."""
    if bucket not in uses.written_buckets:
        return
    if facts.get("retentionPolicy"):
        said = "a retention policy keeps what is staged there from being deleted"
        yield Finding(name, WARN, said, "write to a bucket without one")
    kept_sec = int(facts.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0))
    temporary = _TEMPORARY.intersection(uses.buckets[bucket])
    if kept_sec and temporary:
        options = ", ".join(f"--{option}" for option in sorted(temporary))
        said = f"deleted files are kept, and paid for, {kept_sec / 86400:g} days, those of {options} too"
        remedy = f"gcloud storage buckets update gs://{bucket} --clear-soft-delete"
        yield Finding(name, WARN, said, remedy)


def _place(name: str, facts: dict[str, Any], region: str, options: str, better: str) -> Finding:
    """Where something is, and whether that is near."""
    location = str(facts.get("location") or "an unnamed location").lower()
    if region and not is_near(region, facts):
        said = f"in {location}, and the job runs in {region} ({options}): what crosses is slow and costs"
        return Finding(name, WARN, said, f"use {better}, or --region in {location}")
    return Finding(name, OK, f"in {location} ({options})")


def check_dataset(google: Google, uses: Uses, table: TableName) -> Iterator[Finding]:
    """Whether the dataset of a table is there, and near."""
    from google.api_core import exceptions

    if not clients.emulated():
        google.check_way()
    name, option = f"dataset {table.project}.{table.dataset}", f"--{uses.tables[table]}"
    with clients.client(uses.project or table.project) as client:
        try:
            dataset = client.get_dataset(
                f"{table.project}.{table.dataset}", retry=None, timeout=google.timeout_sec
            )
        except exceptions.NotFound:
            where = f" --location={uses.region}" if uses.region else ""
            remedy = f"bq{where} mk --dataset {table.project}:{table.dataset}"
            yield Finding(name, FAIL, f"not there ({option})", remedy)
            return
        region = uses.region if dataset.location else ""
        yield _place(name, {"location": dataset.location}, region, option, f"a dataset in {uses.region}")
        if table in uses.written_tables:
            return
        try:
            client.get_table(table.path, retry=None, timeout=google.timeout_sec)
        except exceptions.NotFound:
            yield Finding(f"table {table.path}", FAIL, f"not there ({option})", f"bq ls {table.dataset}")


def check_topic(google: Google, uses: Uses, topic: pubsub.Name) -> Iterator[Finding]:
    """Whether a topic is there."""
    if not pubsub.emulated():
        google.check_way()
    client = pubsub.publisher()
    try:
        client.get_topic(topic=topic.path, retry=None, timeout=google.timeout_sec)
    except pubsub.errors() as error:
        yield _refused(f"topic {topic.id}", topic, error, "roles/pubsub.viewer")
        return
    finally:
        client.transport.close()
    yield Finding(f"topic {topic.id}", OK, f"there (--{uses.topics[topic]})")


def _refused(name: str, path: pubsub.Name, error: Exception, role: str) -> Finding:
    """What is not there; anything else is for whoever asked.

    Raises:
      Exception: ``error``.
    """
    from google.api_core.exceptions import NotFound

    if not isinstance(error, NotFound):
        raise error
    said, _, remedy = str(pubsub.explain(error, path, role)).partition("; create it: ")
    return Finding(name, FAIL, said, remedy)


def check_subscription(google: Google, uses: Uses, name: pubsub.Name) -> Iterator[Finding]:
    """Whether a subscription is there, can be pulled from, and is set as the job needs it."""
    if not pubsub.emulated():
        google.check_way()
    client = pubsub.subscriber()
    try:
        found = client.get_subscription(subscription=name.path, retry=None, timeout=google.timeout_sec)
    except pubsub.errors() as error:
        yield _refused(f"subscription {name.id}", name, error, "roles/pubsub.viewer")
        return
    finally:
        client.transport.close()
    yield from read_subscription(name, found, on_dataflow=uses.on_dataflow)


def read_subscription(name: pubsub.Name, found: Subscription, *, on_dataflow: bool) -> Iterator[Finding]:
    """What a subscription's settings mean for a job.

    Dataflow doesn't support Pub/Sub's own dead-letter topics and retry delays (Pub/Sub, "Handle message
    failures"; Dataflow, "Unsupported Pub/Sub features"), and drops repetitions itself. Here a dead-letter
    topic ends the round of a message that ends the process.

    Args:
      name: of it.
      found: as Pub/Sub gives it.
      on_dataflow: whether the job runs there, and not here.
    """
    shown, update = f"subscription {name.id}", f"gcloud pubsub subscriptions update {name.path}"
    kinds = ("push_config.push_endpoint", "bigquery_config.table", "cloud_storage_config.bucket")
    kind = next((one for one in kinds if _value(found, one)), "")
    if kind:
        said = f"it delivers by {kind.partition('.')[0]}, so nothing can be pulled"
        yield Finding(shown, FAIL, said, f"gcloud pubsub subscriptions create OTHER --topic {found.topic}")
        return
    if found.detached or found.topic == _DELETED_TOPIC:
        what = "it is detached" if found.detached else "its topic was deleted"
        yield Finding(shown, FAIL, f"{what}: nothing new comes", "create another on a topic that is there")
        return
    yield Finding(shown, OK, f"of {found.topic}")
    yield _dead_letter(found, update, on_dataflow)
    yield _deadline(found, update, on_dataflow)
    if on_dataflow and found.enable_exactly_once_delivery:
        remedy = f"{update} --no-enable-exactly-once-delivery"
        said = "Pub/Sub's is on: Dataflow drops repetitions itself, and is slower with it"
        yield Finding("exactly-once delivery", WARN, said, remedy)
    if on_dataflow and found.retry_policy:
        said = "a retry policy is set, which Dataflow doesn't heed as Pub/Sub describes it"
        yield Finding("retry policy", WARN, said, f"{update} --clear-retry-policy")


def _value(found: Any, path: str) -> Any:
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _dead_letter(found: Subscription, update: str, on_dataflow: bool) -> Finding:
    topic = found.dead_letter_policy.dead_letter_topic
    if on_dataflow and topic:
        said = f"{topic}: Dataflow's retries are no deliveries, so good messages may land there"
        return Finding(
            "dead letter", WARN, said, f"{update} --clear-dead-letter-policy (failures are in --failures)"
        )
    if on_dataflow:
        return Finding("dead letter", OK, "none of Pub/Sub's; failures go to --failures and the output")
    if topic:
        tries = found.dead_letter_policy.max_delivery_attempts or _DELIVERIES
        return Finding("dead letter", OK, f"{topic}, after {tries} deliveries")
    said = "none: a message that ends the process comes back for ever"
    return Finding(
        "dead letter", WARN, said, f"{update} --dead-letter-topic=TOPIC --max-delivery-attempts={_DELIVERIES}"
    )


def _deadline(found: Subscription, update: str, on_dataflow: bool) -> Finding:
    seconds = found.ack_deadline_seconds
    if seconds >= _LEAST_DEADLINE_SEC or on_dataflow:
        extends = "Dataflow extends it" if on_dataflow else "it is extended while a message is worked on"
        return Finding("ack deadline", OK, f"{seconds} s; {extends}")
    said = f"{seconds} s: on a busy machine messages come again before the first extension"
    return Finding("ack deadline", WARN, said, f"{update} --ack-deadline=60")


def emulators() -> list[str]:
    """The emulators that the environment names: what is found there says nothing of Google Cloud."""
    names = (EMULATOR_REST, pubsub.EMULATOR_HOST, clients.EMULATOR_HOST, STORAGE_EMULATOR)
    return [name for name in names if os.environ.get(name)]


def needs_cloud(uses: Uses) -> bool:
    """Whether something that is used is in Google Cloud, and not in an emulator of its own."""
    used = {
        STORAGE_EMULATOR: uses.buckets,
        clients.EMULATOR_HOST: uses.tables or uses.queries,
        pubsub.EMULATOR_HOST: [*uses.subscriptions, *uses.topics],
    }
    return uses.on_dataflow or any(found and not os.environ.get(name) for name, found in used.items())
