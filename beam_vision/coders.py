"""Registers the types of :mod:`beam_vision.types` with Beam: rows instead of pickles across a shuffle.

Imported (for its effect) by every module that builds transforms.
"""

from apache_beam import coders

from beam_vision import types

for _row in (
    *(types.Box, types.BoxFrame, types.Fault, types.Label),
    *(types.ImageRef, types.Prediction, types.Failure),
):
    coders.registry.register_row(_row)
