"""A pipeline as steps that call each other: what one gives, the next takes at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.common import DoFnRunner, DoFnSignature, Receiver
from apache_beam.transforms.core import Flatten, Impulse, ParDo

from beam_vision.errors import UsageError
from beam_vision.streaming.local.source import MarkTime, ReadFeed
from beam_vision.streaming.local.state import Context, Store


class Fan(Receiver):
    """Passes each value on to all steps that take it."""

    def __init__(self) -> None:
        self.takers: list[Any] = []

    def receive(self, windowed_value: Any) -> None:
        """Runs those steps, one after the other, to their ends."""
        for taker in self.takers:
            taker.process(windowed_value)

    def receive_batch(self, windowed_batch: Any) -> None:
        """Not for us: no step of ours yields batches as one."""
        raise NotImplementedError


class _Tags(dict):
    """A step's outputs by tag; what nobody takes goes nowhere."""

    def __missing__(self, tag: Any) -> Fan:
        fan = self[tag] = Fan()
        return fan


class Step:
    """A ParDo, with its DoFn set up for the whole run.

    Attributes:
      label: its full name in the pipeline.
      timers: its timers' specs, by name.
      mark: its DoFn, when that is a :class:`~beam_vision.streaming.local.source.MarkTime`.
    """

    def __init__(self, applied: Any, tags: _Tags, store: Store) -> None:
        dofn = applied.transform.dofn
        signature = DoFnSignature(dofn)
        self.label = applied.full_label
        self.stateful = signature.is_stateful_dofn()
        self.timers = {spec.name: spec for spec in beam.transforms.userstate.get_dofn_specs(dofn)[1]}
        self.mark = dofn if isinstance(dofn, MarkTime) else None
        self._runner = DoFnRunner(
            dofn,
            applied.transform.args,
            applied.transform.kwargs,
            (),
            applied.inputs[0].windowing,
            tagged_receivers=tags,
            step_name=None,  # with a name, Beam logs each error, and raises another one in its place
            user_state_context=Context(store, self.label) if self.stateful else None,
        )
        self.process = self._runner.process
        self.setup = self._runner.setup
        self.start = self._runner.start
        self.finish = self._runner.finish
        self.teardown = self._runner.teardown

    def fire(self, name: str, key: Any, window: Any, timestamp: Any, tag: str) -> None:
        """Calls the DoFn's method for a timer."""
        self._runner.process_user_timer(self.timers[name], key, window, timestamp, None, tag)


class Graph:
    """All steps, in an order in which each comes after those that it takes from.

    Attributes:
      steps: the ParDos.
      source: passes the feed's messages on.
      impulses: pass one empty value on, each, when the run begins.
      stateful: those of them that have state, by label.

    Raises:
      UsageError: the pipeline holds something that the local runner doesn't run.
    """

    def __init__(self, pipeline: beam.Pipeline, store: Store) -> None:
        leaves = _leaves(pipeline)
        self.source = Fan()
        self.impulses: list[Fan] = []
        self.steps: list[Step] = []
        fans: dict[Any, Fan] = defaultdict(Fan)
        for applied in leaves:
            outputs = {tag: fans[value] for tag, value in applied.outputs.items()}
            if isinstance(applied.transform, ReadFeed):
                self.source = outputs[None]
            elif isinstance(applied.transform, Impulse):
                self.impulses.append(outputs[None])
            elif isinstance(applied.transform, Flatten):
                through = _Through(outputs[None])
                for value in applied.inputs:
                    fans[value].takers.append(through)
            elif isinstance(applied.transform, ParDo) and not applied.side_inputs:
                step = Step(applied, _Tags(outputs), store)
                fans[applied.inputs[0]].takers.append(step)
                self.steps.append(step)
            else:
                raise UsageError(
                    f"the local streaming runner can't run {applied.full_label} "
                    f"({type(applied.transform).__name__}); it runs ParDo without side inputs, and Flatten"
                )
        self.stateful = {step.label: step for step in self.steps if step.stateful}
        store.ranks = {step.label: number for number, step in enumerate(self.steps)}


class _Through:
    """Stands for a Flatten."""

    def __init__(self, fan: Fan) -> None:
        self.process = fan.receive


def _leaves(pipeline: beam.Pipeline) -> list[Any]:
    found: list[Any] = []

    class Visitor(PipelineVisitor):
        def visit_transform(self, transform_node: Any) -> None:
            found.append(transform_node)

    pipeline.visit(Visitor())
    return found
