"""``WarmUp``: a learning rate that rises before it follows a schedule. Imports Keras: import it late."""

from __future__ import annotations

from typing import Any

from beam_vision import deps

keras: Any = deps.need("keras")


@keras.saving.register_keras_serializable("beam_vision")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """The first ``steps`` rates rise to the highest by equal amounts (Goyal et al., 2017), then ``after``
    begins.

    Args:
      highest: the rate of the last step of the warm-up.
      steps: of the warm-up, at least 1.
      after: the schedule whose step 0 follows.
    """

    def __init__(self, highest: float, steps: int, after: Any) -> None:
        self.highest = highest
        self.steps = steps
        self.after = after

    def __call__(self, step: Any) -> Any:
        """The rate of ``step``, 0 for the first."""
        at = keras.ops.cast(step, "float32")
        rising = self.highest * (at + 1) / self.steps
        return keras.ops.where(at < self.steps, rising, self.after(keras.ops.maximum(at - self.steps, 0)))

    def get_config(self) -> dict[str, Any]:
        """What :meth:`from_config` takes."""
        after = keras.saving.serialize_keras_object(self.after)
        return {"highest": self.highest, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        """As ``get_config`` gave it."""
        return cls(config["highest"], config["steps"], keras.saving.deserialize_keras_object(config["after"]))
