"""Fitting on several replicas, of one machine or of many: the loop that Keras's ``fit`` can't be there.

Keras (3.15) can't take batches of ``MultiWorkerMirroredStrategy`` apart, nor bring its figures together
(keras-team/keras#20585), and fails on one machine where a last small batch leaves a replica without images.
Here each worker runs the same steps over the model's own ``train_step``: gradients are summed over all
replicas there, and figures are added up over all where they are looked at. So whether they are looked at must
depend on the step alone, and a wish to stop is told to all with the step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from beam_vision import deps

if TYPE_CHECKING:
    from beam_vision.training.course import Course
    from beam_vision.training.phases import Phase


def fit_replicas(course: Course, phase: Phase, train: Any, validation: Any) -> None:
    """As :func:`beam_vision.training.course.fit_phase`, on the replicas of the trainee's strategy.

    Args:
      course: of the run; its trainee was built and compiled in the strategy's scope.
      phase: the epochs.
      train: batches for all replicas together, each of full size; begins at the phase's first step.
      validation: batches, the last of which may be smaller; None: there are none.
    """
    tf = deps.need("tensorflow")
    trainee = course.trainee
    strategy = trainee.distribute_strategy
    batches = iter(strategy.experimental_distribute_dataset(train))
    checked = None if validation is None else strategy.experimental_distribute_dataset(validation)
    step, look = _train_step(trainee, strategy), _test_step(trainee, strategy)
    trainee.stop_training = False
    for epoch in range(phase.first_epoch, phase.end_epoch):
        trainee.reset_metrics()
        for number, batch in enumerate(itertools.islice(batches, phase.steps)):
            course.begin_batch(number)
            wishes = step(batch, tf.constant(float(course.wants_stop)))
            course.end_batch(number, Figures(trainee), stop=float(wishes) > 0)
            if trainee.stop_training:
                break
        figures = dict(Figures(trainee))
        course.end_epoch(epoch, {**figures, **_validated(trainee, checked, look)})
        if trainee.stop_training:
            return


class Figures(Mapping[str, float]):
    """A model's figures over the steps until now, added up of all replicas when first asked for."""

    def __init__(self, trainee: Any) -> None:
        self._trainee = trainee
        self._known: dict[str, float] | None = None

    def _values(self) -> dict[str, float]:
        if self._known is None:
            self._known = {name: float(value) for name, value in self._trainee.get_metrics_result().items()}
        return self._known

    def __getitem__(self, name: str) -> float:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


def _train_step(trainee: Any, strategy: Any) -> Any:
    """From a batch and this process's wish to stop, 0 or 1: how many replicas wish it."""
    tf = deps.need("tensorflow")

    def one(batch: Any, wish: Any) -> Any:
        trainee.train_step(batch)
        here = tf.identity(wish)  # on the replica's own device
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: Any, wish: Any) -> Any:
        return strategy.experimental_local_results(strategy.run(one, args=(batch, wish)))[0]

    return step


def _test_step(trainee: Any, strategy: Any) -> Any:
    """Adds a batch to the figures; a replica that has no image of it does nothing."""
    tf = deps.need("tensorflow")

    def one(batch: Any) -> Any:
        images = tf.shape(tf.nest.flatten(batch)[0])[0]

        def look() -> Any:
            trainee.test_step(batch)
            return images

        return tf.cond(images > 0, look, lambda: images)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: Any) -> None:
        strategy.run(one, args=(batch,))

    return step


def _validated(trainee: Any, batches: Any, step: Any) -> dict[str, float]:
    """The validation split's figures, by Keras's names for them; none without the split."""
    if batches is None:
        return {}
    trainee.reset_metrics()
    for batch in batches:
        step(batch)
    return {f"val_{name}": value for name, value in Figures(trainee).items()}
