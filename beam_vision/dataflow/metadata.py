"""What a flex template says of its parameters, made from a job's options.

``metadata.json`` is Dataflow's ``TemplateMetadata``: the console draws a form from it, and the service checks
parameters by it before it starts a launcher. ("Configure Flex Templates", "ParameterMetadata" in the REST
reference of Dataflow, v1b3.)
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BOOLEAN = "BOOLEAN"
ENUM = "ENUM"
NUMBER = "NUMBER"
TEXT = "TEXT"
JSON_INDENT = 2
INTEGER_REGEX = "-?[0-9]+"
FLOAT_REGEX = r"-?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?"

_BY_TASK = re.compile(r"(classify|embed|detect): ")
_NAME = re.compile(r"[a-zA-Z][-a-zA-Z0-9_]*\Z")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a value of text is, where the field itself doesn't say it.

    Attributes:
      kind: a ``ParameterType`` of Dataflow, such as ``GCS_READ_FOLDER``.
      regex: that the whole value matches; empty: any.
    """

    kind: str = TEXT
    regex: str = ""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A job as a flex template.

    Attributes:
      job: of ``beam-vision``, such as ``predict``.
      title, description: for people.
      streaming: whether the job has no end.
      required: options that the template can't do without, although the job can elsewhere.
      omitted: options that have no meaning in it, and why.
      shapes: of its options, by name.
      parents: options that are shown only where another one has one of some values.
    """

    job: str
    title: str
    description: str
    streaming: bool = False
    required: tuple[str, ...] = ()
    omitted: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    parents: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One of Dataflow's ``ParameterMetadata``.

    Attributes:
      name: as the launcher gets it: ``--name=value``.
      help: one or two sentences.
      kind: a ``ParameterType``.
      optional: whether it may be left out.
      regex: that the value matches from end to end; empty: any. The empty value is always taken for an
        optional parameter: consoles and schedulers send it for a field that was left alone.
      choices: of an ``ENUM``.
      default: as text; empty: none, or the empty text.
      group: the heading that it stands under.
      parent, triggers: it is shown only where that parameter has one of these values.
    """

    name: str
    help: str
    kind: str = TEXT
    optional: bool = True
    regex: str = ""
    choices: tuple[str, ...] = ()
    default: str = ""
    group: str = ""
    parent: str = ""
    triggers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As ``metadata.json`` has it: only what is set."""
        facts: dict[str, Any] = {
            "name": self.name,
            "label": label_of(self.name),
            "helpText": self.help,
            "isOptional": self.optional,
            "paramType": self.kind,
            "groupName": self.group,
            "regexes": [f"^({self.regex})?$" if self.optional else f"^({self.regex})$"] if self.regex else [],
            "enumOptions": [{"value": choice, "label": choice} for choice in self.choices],
            "defaultValue": self.default,
            "parentName": self.parent,
            "parentTriggerValues": list(self.triggers),
        }
        always = ("name", "label", "helpText", "isOptional", "paramType")
        return {name: value for name, value in facts.items() if value or name in always}


WORKERS = "Workers"
BEAM_PARAMETERS = (
    Parameter(
        name="sdk_container_image",
        help="container image of the workers (default: the template's own, which is what it was tested with)",
        regex=r"[a-z0-9][-a-z0-9._:]*/[-a-zA-Z0-9._/:@]+",
        group=WORKERS,
    ),
    Parameter(
        name="number_of_worker_harness_threads",
        help="threads in each process of a worker that take work (default: as Dataflow sees fit, or as the "
        "job's own options for GPUs set it)",
        kind=NUMBER,
        regex="[1-9][0-9]*",
        group=WORKERS,
    ),
    Parameter(
        name="disk_size_gb",
        help="disk of each worker; it must hold the container image and what is staged (default: Dataflow's)",
        kind=NUMBER,
        regex="[1-9][0-9]*",
        group=WORKERS,
    ),
    Parameter(
        name="dataflow_service_options",
        help="options of the service, such as streaming_mode_at_least_once or enable_prime",
        regex=r"[^\s]+",
        group=WORKERS,
    ),
)
"""Beam's own options that ``gcloud dataflow flex-template run`` has no flag for."""


def label_of(name: str) -> str:
    """``max_failure_rate`` -> ``Max failure rate``."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def fields_of(options: type) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The fields of a job's options and the type of each; of ``T | None`` it is T."""
    hints = typing.get_type_hints(options)
    for one in dataclasses.fields(options):
        kind = hints[one.name]
        if isinstance(kind, types.UnionType):
            kind = next(arg for arg in typing.get_args(kind) if arg is not types.NoneType)
        yield one, kind


def metadata(template: Template, options: type, *, groups: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``metadata.json``.

    Args:
      template: what is said of the job as a whole.
      options: its options, a dataclass whose fields have ``help`` and ``choices`` in their metadata.
      groups: heading by the name of the class that defines an option; others stand under ``Job``.

    Raises:
      ValueError: ``template`` names an option that the job doesn't have, or Dataflow would take no such name.
    """
    known = {one.name for one in dataclasses.fields(options)}
    named = (template.required, template.omitted, template.shapes, template.parents)
    for name in itertools.chain.from_iterable(named):
        if name not in known:
            raise ValueError(f"the template of {template.job} names the option {name!r}, which it hasn't")
    parameters = [
        parameter_of(one, kind, template, groups.get(_defined_in(options, one.name), "Job"))
        for one, kind in fields_of(options)
        if one.name not in template.omitted
    ]
    has_task = any(one.name == "task" for one in parameters)
    shown = [by_task(one) if has_task else one for one in parameters]
    shown.sort(key=lambda one: one.optional)  # stable: required ones first
    for one in shown:
        if not _NAME.match(one.name):
            raise ValueError(f"the option {one.name!r} of {template.job} is no name for a parameter")
    return {
        "name": template.title,
        "description": template.description,
        "streaming": template.streaming,
        "parameters": [one.to_json() for one in (*shown, *BEAM_PARAMETERS)],
    }


def _defined_in(options: type, name: str) -> str:
    """The class, of it and its bases, that defines a field first."""
    owners = [one.__name__ for one in options.__mro__ if name in inspect.get_annotations(one)]
    return owners[-1]


def parameter_of(one: dataclasses.Field, kind: Any, template: Template, group: str) -> Parameter:
    """An option as a parameter."""
    optional = one.default is not dataclasses.MISSING and one.name not in template.required
    shape = template.shapes.get(one.name, Shape())
    choices = one.metadata.get("choices") or ()
    parent, triggers = template.parents.get(one.name, ("", ()))
    settings: dict[str, Any] = {"kind": shape.kind, "regex": shape.regex}
    if kind is bool:
        settings = {"kind": BOOLEAN, "regex": "true|false"}
    elif choices:
        settings = {"kind": ENUM, "regex": "|".join(map(re.escape, choices)), "choices": tuple(choices)}
    elif kind in (int, float):
        settings = {"kind": NUMBER, "regex": INTEGER_REGEX if kind is int else FLOAT_REGEX}
    return Parameter(
        name=one.name.rstrip("_"),
        help=one.metadata["help"],
        optional=optional,
        default=text_of(one.default) if optional else "",
        group=group,
        parent=parent,
        triggers=triggers,
        **settings,
    )


def by_task(parameter: Parameter) -> Parameter:
    """One whose help begins with ``detect:`` is shown for that task only."""
    found = _BY_TASK.match(parameter.help)
    if not found or parameter.name == "task":
        return parameter
    return dataclasses.replace(parameter, parent="task", triggers=(found.group(1),))


def text_of(value: Any) -> str:
    """A default as a parameter's text; empty for None."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_text(content: Mapping[str, Any]) -> str:
    """``metadata.json`` as it is written: the same text for the same options."""
    return json.dumps(content, indent=JSON_INDENT, ensure_ascii=False) + "\n"
