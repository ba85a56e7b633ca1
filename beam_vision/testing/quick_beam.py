"""Beam asks the same things again and again while a pipeline is built; here it asks once.

Building and running a pipeline of a few images is mostly this: for each ``ParDo`` Beam looks through all
methods of its DoFn eight times (what state and timers do they take?), and hundreds of times a pipeline it
makes an ``argparse`` parser of an options class to read one option. Both answers depend on nothing that
changes, so tests remember them: a small job takes half the processor time.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_OPTIONS_KEPT = 16
"""Of how many pipelines the views of the options are remembered."""


def install() -> None:
    """Makes Beam remember, in this process, until it ends. Again: nothing."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms import userstate

    if not hasattr(userstate.get_dofn_specs, "asked_once"):
        userstate.get_dofn_specs = specs_by_class(userstate.get_dofn_specs)
        PipelineOptions.view_as = views_by_class(PipelineOptions.view_as)


def specs_by_class(ask: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Beam's ``get_dofn_specs``, asked once for a class.

    What it looks for are defaults of bound methods, which are the class's; a DoFn that carries bound
    methods of its own (as that of ``beam.Map(a.method)`` does) is looked through each time.
    """
    known: dict[type, Any] = {}

    @functools.wraps(ask)
    def get_dofn_specs(dofn: Any) -> Any:
        if any(isinstance(value, types.MethodType) for value in vars(dofn).values()):
            return ask(dofn)
        if type(dofn) not in known:
            known[type(dofn)] = ask(dofn)
        return tuple(set(found) for found in known[type(dofn)])

    get_dofn_specs.asked_once = True  # type: ignore[attr-defined]
    return get_dofn_specs


def views_by_class(make: Callable[[Any, type], Any]) -> Callable[[Any, type], Any]:
    """``PipelineOptions.view_as``, which makes a view of each class once for the same options.

    Views of the same options share one dictionary of values, by which they are known here; it is held on
    to, so that no other dictionary can come to have its ``id``.
    """
    known: OrderedDict[int, tuple[dict, dict[type, Any]]] = OrderedDict()

    def view_as(self: Any, cls: type) -> Any:
        values = self._all_options
        _, views = known.setdefault(id(values), (values, {}))
        known.move_to_end(id(values))
        if len(known) > _OPTIONS_KEPT:
            known.popitem(last=False)
        if cls not in views:
            views[cls] = make(self, cls)
        return views[cls]

    return view_as
