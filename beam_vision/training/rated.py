"""Keras's optimizers with a learning rate of its own for each variable. Imports Keras: import it late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_vision import deps

keras: Any = deps.need("keras")


def _rated(base: Any) -> Any:
    """``base`` with ``multipliers``: one for each of the variables that it is built with, in their order."""

    class Rated(base):
        def __init__(self, *args: Any, multipliers: Sequence[float] = (), **given: Any) -> None:
            super().__init__(*args, **given)
            self.multipliers = list(multipliers)

        def build(self, variables: Sequence[Any]) -> None:
            if len(variables) != len(self.multipliers):
                raise ValueError(
                    f"{len(self.multipliers)} multipliers for {len(variables)} trainable variables"
                )
            super().build(variables)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = keras.ops.cast(learning_rate, variable.dtype)
            rate = rate * self.multipliers[self._get_variable_index(variable)]
            if self.weight_decay is not None and self._use_weight_decay(variable):
                self.assign_sub(variable, variable * self.weight_decay * rate)
            super().update_step(gradient, variable, rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            """Is a part of the step here: Keras's would decay all at the one rate."""

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "multipliers": list(self.multipliers)}

    Rated.__name__ = Rated.__qualname__ = f"Rated{base.__name__}"
    return keras.saving.register_keras_serializable("beam_vision")(Rated)


RATED = {
    name: _rated(getattr(keras.optimizers, name))
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Nadam", "Adagrad", "Adadelta", "Adamax", "Ftrl")
}
"""By the name of the class that each is of."""
