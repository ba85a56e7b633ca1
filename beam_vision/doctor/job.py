"""What a job uses, read off its options: buckets, tables, subscriptions, machines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision import pubsub
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table

WRITTEN = frozenset(
    {"output", "failures", "staging", "state", "summary", "metrics_file", "html", "pictures"}
    | {"temp_location", "staging_location"}
)
"""Options whose files are written; other options' are only read."""
_ACCELERATOR = re.compile(r"worker_accelerator=type:(?P<type>[\w-]+);count:(?P<count>\d+)")
_NOT_PLACES = ("query",)


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What a job uses.

    Attributes:
      job: its name; ``""``: only Beam's options are known.
      on_dataflow: whether it runs there, and not here.
      project: of Dataflow, else of a table or a subscription.
      region: of Dataflow.
      account: the workers' service account; ``""``: the project's default one.
      buckets: by name, the options that name something in it.
      written_buckets: those that something is written to.
      tables: by name in BigQuery, the option; ``written_tables`` likewise.
      queries: whether BigQuery runs a query for the images.
      subscriptions, topics: of Pub/Sub, by name, the option.
      folders: on this machine, that are written to.
      remote: whether any option names something that isn't on this machine.
      accelerator, accelerators: such as ``nvidia-l4``, and how many a worker has.
      machine_type: of a worker; ``""``: Dataflow's choice.
      workers: at most; 0: Dataflow's choice.
      public_ips: whether each worker has an address of its own in the internet.
      image: of the workers' containers; ``""``: Beam's own.
      brings_code: whether the workers are told to install something.
      needs_java: the option that needs Java here; ``""``: none does.
    """

    job: str = ""
    on_dataflow: bool = False
    project: str = ""
    region: str = ""
    account: str = ""
    buckets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written_buckets: frozenset[str] = frozenset()
    tables: Mapping[TableName, str] = field(default_factory=dict)
    written_tables: frozenset[TableName] = frozenset()
    queries: bool = False
    subscriptions: Mapping[pubsub.Name, str] = field(default_factory=dict)
    topics: Mapping[pubsub.Name, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    remote: bool = False
    accelerator: str = ""
    accelerators: int = 0
    machine_type: str = ""
    workers: int = 0
    public_ips: bool = True
    image: str = ""
    brings_code: bool = False
    needs_java: str = ""


def uses_of(job: str, options: Mapping[str, Any], beam: Mapping[str, Any]) -> Uses:
    """What a job's options and Beam's say.

    Args:
      job: its name.
      options: of the job, by name.
      beam: Beam's, by name, as ``PipelineOptions.get_all_options`` gives them.

    Raises:
      UsageError: one that is meant as a name in BigQuery or Pub/Sub is no such name.
    """
    places = list(_places({**options, **_beam_places(beam)}))
    gs = [(option, text.removeprefix("gs://").partition("/")[0]) for option, text in places if _is_gs(text)]
    tables = [
        (option, parse_table(text, option=f"--{option}")) for option, text in places if is_bigquery(text)
    ]
    names = [(option, pubsub.parse_name(text)) for option, text in places if _is_pubsub(text)]
    buckets = {name: tuple(dict.fromkeys(o for o, other in gs if other == name)) for _, name in gs}
    runner = str(beam.get("runner") or "").rpartition(".")[2].lower()
    return Uses(
        job=job,
        on_dataflow=runner == "dataflowrunner",
        project=beam.get("project") or options.get("query_project") or _project_of(tables, names),
        queries=bool(options.get("query")),
        region=beam.get("region") or "",
        account=beam.get("service_account_email") or "",
        buckets=buckets,
        written_buckets=frozenset(name for option, name in gs if option in WRITTEN),
        tables={name: option for option, name in tables},
        written_tables=frozenset(name for option, name in tables if option in WRITTEN),
        subscriptions={name: option for option, name in names if name.kind == "subscriptions"},
        topics={name: option for option, name in names if name.kind == "topics"},
        folders=tuple(text for option, text in places if option in WRITTEN and "://" not in text),
        remote=any("://" in text and not text.startswith("file://") for _, text in places),
        needs_java="--write_method storage_write_api" if _writes_by_java(options) else "",
        **_machines(beam),
    )


def _project_of(tables: list[tuple[str, TableName]], names: list[tuple[str, pubsub.Name]]) -> str:
    projects = [*(table.project for _, table in tables), *(name.project for _, name in names)]
    return projects[0] if projects else ""


def _places(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options that name places, each place alone; globs and lists are separated by commas."""
    for name, value in options.items():
        if not isinstance(value, str) or name in _NOT_PLACES:
            continue
        for text in value.split(","):
            if text.strip() and (name in WRITTEN or "://" in text):
                yield name, text.strip()


def _beam_places(beam: Mapping[str, Any]) -> dict[str, Any]:
    return {name: beam.get(name) for name in ("temp_location", "staging_location")}


def _is_gs(text: str) -> bool:
    return text.startswith("gs://")


def _is_pubsub(text: str) -> bool:
    return text.startswith(pubsub.SCHEME)


def _writes_by_java(options: Mapping[str, Any]) -> bool:
    return options.get("write_method") == "storage_write_api"


def _machines(beam: Mapping[str, Any]) -> dict[str, Any]:
    """What Beam's options say of workers."""
    services = ",".join(beam.get("dataflow_service_options") or ())
    asked = _ACCELERATOR.search(services)
    code = ("setup_file", "requirements_file", "extra_packages")
    return {
        "accelerator": asked["type"] if asked else "",
        "accelerators": int(asked["count"]) if asked else 0,
        "machine_type": beam.get("machine_type") or "",
        "workers": int(beam.get("max_num_workers") or beam.get("num_workers") or 0),
        "public_ips": beam.get("use_public_ips") is not False,
        "image": beam.get("sdk_container_image") or "",
        "brings_code": any(beam.get(name) for name in code),
    }
