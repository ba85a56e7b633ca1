"""Every optimizer, schedule and loss by name: it builds, it lowers a loss, and it does what is said of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training import losses, optimizers, schedules
from beam_vision.training.config import LossConfig, OptimizerConfig, ScheduleConfig

RATES = {"sgd": 0.1, "adagrad": 0.3, "adadelta": 30.0, "ftrl": 0.3}
CLASSES = 3


def data(multi_label=False, number=48):
    """Points around three corners; with several labels, the signs of the coordinates."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.5, (number, CLASSES)).astype(np.float32)
    if multi_label:
        return points, (points > 0).astype(np.float32)
    truth = np.eye(CLASSES, dtype=np.float32)[np.arange(number) % CLASSES]
    return points + 2 * truth, truth


def model(multi_label=False):
    keras = deps.need("keras")
    keras.utils.set_random_seed(3)
    last = "sigmoid" if multi_label else "softmax"
    return keras.Sequential([keras.Input((CLASSES,)), keras.layers.Dense(CLASSES, last)])


def descend(optimizer, loss, *, multi_label=False, steps=15):
    """The losses of ``steps`` steps."""
    tf = deps.need("tensorflow")
    net = model(multi_label)
    points, truth = data(multi_label)
    found = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss(truth, net(points, training=True))
        optimizer.apply(tape.gradient(value, net.trainable_variables), net.trainable_variables)
        found.append(float(value))
    return found


def optimizer_of(name, rate=None, multipliers=(), **settings):
    config = OptimizerConfig(name=name, **settings)
    return optimizers.build_optimizer(config, rate or RATES.get(name, 0.03), multipliers=multipliers)


def loss_of(name="auto", multi_label=False, weights=None, **settings):
    return losses.build_loss(
        LossConfig(name=name, **settings),
        task="classify",
        classes=CLASSES,
        multi_label=multi_label,
        weights=weights,
    )


@pytest.mark.parametrize("name", optimizers.names())
def test_optimizer_lowers_the_loss(name):
    found = descend(optimizer_of(name), loss_of())
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("name", schedules.names())
def test_schedule_lowers_the_loss(name):
    course = schedules.build_schedule(ScheduleConfig(name=name), 0.3, 15)
    found = descend(optimizer_of("sgd", course, nesterov=True), loss_of())
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize(
    ("name", "multi_label"),
    [(name, False) for name in losses.ONE_LABEL] + [(name, True) for name in losses.SEVERAL_LABELS],
)
def test_loss_is_lowered(name, multi_label):
    found = descend(
        optimizer_of("adam", 0.1),
        loss_of(name, multi_label, weights=[1.0, 2.0, 1.0]),
        multi_label=multi_label,
    )
    assert found[-1] < 0.7 * found[0]


def step(optimizer, *, gradient, start=0.5, number=2):
    """How far one step takes ``number`` kernels and one bias, all ``[3]``."""
    keras = deps.need("keras")
    variables = [keras.Variable(np.full(3, start), name=f"kernel_{i}") for i in range(number)]
    variables.append(keras.Variable(np.full(3, start), name="bias"))
    optimizer.apply([keras.ops.full((3,), gradient)] * len(variables), variables)
    return [float(np.asarray(variable)[0]) - start for variable in variables]


@pytest.mark.parametrize("name", optimizers.names())
def test_a_variable_has_its_own_rate(name):
    decay = {"weight_decay": 0.5}
    plain = step(optimizer_of(name, 0.01, **decay), gradient=0.3)
    fast, slow, bias = step(optimizer_of(name, 0.01, multipliers=[1.0, 0.1, 1.0], **decay), gradient=0.3)
    assert fast == pytest.approx(plain[0], rel=1e-3)
    assert bias == pytest.approx(plain[2], rel=1e-3)
    assert slow == pytest.approx(0.1 * fast, rel=0.03)  # decay and step are taken one after the other
    assert abs(slow) > 1e-5


@pytest.mark.parametrize("multipliers", [(), (1.0, 0.5, 1.0)])
def test_weight_decay_spares_biases(multipliers):
    found = step(optimizer_of("sgd", 0.1, weight_decay=0.5, multipliers=multipliers), gradient=0.0)
    half = multipliers[1] if multipliers else 1.0
    assert found == pytest.approx([-0.025, -0.025 * half, 0.0], abs=1e-7)


def test_gradients_are_clipped():
    found = step(optimizer_of("sgd", 1.0, weight_decay=0.0, momentum=0.0, clipnorm=0.3), gradient=10.0)
    assert found == pytest.approx([-0.3 / math.sqrt(3)] * 3, rel=1e-5)


def test_ftrl_begins_where_the_weights_are():
    keras = deps.need("keras")
    ours = step(optimizer_of("ftrl", 1e-4, weight_decay=0.0), gradient=0.01)
    theirs = step(keras.optimizers.Ftrl(1e-4), gradient=0.01)
    assert max(map(abs, ours)) < 1e-3
    assert min(map(abs, theirs)) > 0.4  # what is avoided


def test_optimizer_is_saved_with_its_multipliers():
    keras = deps.need("keras")
    course = schedules.build_schedule(ScheduleConfig(), 0.1, 50)
    one = optimizer_of("adamw", course, multipliers=[1.0, 0.1, 0.0])
    other = keras.optimizers.deserialize(keras.optimizers.serialize(one))
    assert list(other.multipliers) == [1.0, 0.1, 0.0]
    assert float(other.learning_rate) == pytest.approx(float(course(0)))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(course))
    assert [float(again(at)) for at in (3, 20)] == pytest.approx([float(course(at)) for at in (3, 20)])


def test_multipliers_must_be_as_many_as_the_variables():
    with pytest.raises(ValueError, match="2 multipliers for 3"):
        step(optimizer_of("sgd", multipliers=[1.0, 0.5]), gradient=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adam", "nesterov": True}, "nadam is Adam with"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, "not for sgd with 0.0"),
        ({"name": "ftrl"}, "give model.freeze: backbone"),
    ],
)
def test_impossible_optimizers_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        optimizers.build_optimizer(OptimizerConfig(**settings), 0.1, multipliers=[1.0, 0.0])


def rates(total=100, highest=2.0, **settings):
    course = schedules.build_schedule(ScheduleConfig(**settings), highest, total)
    return [float(course(at)) for at in range(total + 1)]


def test_cosine_after_a_warm_up():
    found = rates(name="cosine", warmup=0.1, end=0.1)
    assert found[:10] == pytest.approx([0.2 * (at + 1) for at in range(10)])
    by_hand = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * at / 90)) / 2) for at in range(91)]
    assert found[10:] == pytest.approx(by_hand, rel=1e-5)


def test_other_schedules_by_hand():
    assert rates(name="constant", warmup=5)[4:] == pytest.approx([2.0] * 97)
    linear = rates(name="polynomial", warmup=0, end=0.5, power=2.0)
    assert [linear[at] for at in (0, 50, 100)] == pytest.approx([2.0, 1.25, 1.0])
    falling = rates(name="exponential", warmup=0, decay_steps=0.25, decay_rate=0.5)
    assert [falling[at] for at in (0, 25, 50, 100)] == pytest.approx([2.0, 1.0, 0.5, 0.125])
    in_steps = rates(name="exponential", warmup=0, decay_steps=25, decay_rate=0.5, staircase=True)
    assert [in_steps[at] for at in (0, 24, 25)] == pytest.approx([2.0, 2.0, 1.0])
    inverse = rates(name="inverse_time", warmup=20, decay_steps=40, decay_rate=3.0)
    assert [inverse[at] for at in (20, 60, 100)] == pytest.approx([2.0, 0.5, 2 / 7])


@pytest.mark.parametrize("warmup", [0, 10])
def test_piecewise_changes_at_its_boundaries(warmup):
    found = rates(name="piecewise", warmup=warmup, boundaries=(0.3, 60), factors=(1.0, 0.1, 0.01))
    expected = [2.0] * 30 + [0.2] * 30 + [0.02] * 41
    assert found[warmup:] == pytest.approx(expected[warmup:])


@given(
    name=st.sampled_from(schedules.names()),
    total=st.integers(4, 5000),
    warmup=st.floats(0, 0.45),
    at=st.floats(0, 1),
)
def test_rates_rise_and_never_pass_the_highest(name, total, warmup, at):
    course = schedules.build_schedule(ScheduleConfig(name=name, warmup=warmup), 0.7, total)
    step = round(at * (total - 1))
    rate = float(course(step))
    assert 0 <= rate <= 0.7 * (1 + 1e-5)
    if step < round(warmup * total):
        assert rate == pytest.approx(0.7 * (step + 1) / round(warmup * total), rel=1e-4)
    else:
        assert float(course(step + 1)) <= rate * (1 + 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 100}, "warmup takes 100 steps, and the run has 100"),
        ({"name": "piecewise", "factors": (1.0, 0.1)}, "one factor more"),
        ({"name": "piecewise", "boundaries": (0.5, 0.2)}, "must ascend"),
        ({"name": "piecewise", "warmup": 0.6}, "past the 60 steps of the warm-up"),
    ],
)
def test_impossible_schedules_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        rates(**settings)


def some_truth(multi_label):
    rng = np.random.default_rng(5)
    scores = rng.random((6, CLASSES)).astype(np.float32)
    if multi_label:
        return (rng.random((6, CLASSES)) < 0.4).astype(np.float32), scores
    return np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, 6)], scores / scores.sum(
        1, keepdims=True
    )


@pytest.mark.parametrize(
    ("name", "theirs", "multi_label"),
    [
        ("cross_entropy", "CategoricalCrossentropy", False),
        ("focal", "CategoricalFocalCrossentropy", False),
        ("binary_cross_entropy", "BinaryCrossentropy", True),
        ("binary_focal", "BinaryFocalCrossentropy", True),
    ],
)
def test_losses_are_keras_own_numbers(name, theirs, multi_label):
    given = {"apply_class_balancing": True} if name == "binary_focal" else {}
    for smoothing in (0.0,) if name == "binary_focal" else (0.0, 0.1):  # Keras's smooths its factors too
        reference = getattr(deps.need("keras").losses, theirs)(label_smoothing=smoothing, **given)
        truth, scores = some_truth(multi_label)
        found = float(loss_of(name, multi_label, label_smoothing=smoothing)(truth, scores))
        assert found == pytest.approx(float(reference(truth, scores)), rel=1e-4)


def test_brier_and_weights_by_hand():
    truth, scores = some_truth(False)
    assert float(loss_of("brier")(truth, scores)) == pytest.approx(
        ((truth - scores) ** 2).sum(1).mean(), rel=1e-5
    )
    weights = np.array([1.0, 5.0, 0.5])
    found = float(loss_of("cross_entropy", weights=weights)(truth, scores))
    assert found == pytest.approx((weights[truth.argmax(1)] * -np.log(scores[truth == 1])).mean(), rel=1e-5)
    truth, scores = some_truth(True)
    by_hand = -(weights * truth * np.log(scores) + (1 - truth) * np.log(1 - scores)).mean()
    assert float(loss_of(multi_label=True, weights=weights)(truth, scores)) == pytest.approx(
        by_hand, rel=1e-5
    )


def test_mixed_truth_is_the_mix_of_the_losses():
    truth, scores = some_truth(False)
    one, other = (float(loss_of()(t, scores)) for t in (truth, truth[::-1]))
    mixed = float(loss_of()(0.3 * truth + 0.7 * truth[::-1], scores))
    assert mixed == pytest.approx(0.3 * one + 0.7 * other, rel=1e-5)


@given(counts=st.lists(st.integers(1, 10_000), min_size=2, max_size=9))
def test_balanced_classes_weigh_the_same(counts):
    labels = [f"class {i}" for i in range(len(counts))]
    weights = losses.class_weights("balanced", labels, counts, images=sum(counts))
    shares = [weight * n for weight, n in zip(weights, counts, strict=True)]
    assert shares == pytest.approx([sum(counts) / len(counts)] * len(counts))


def test_class_weights():
    labels = ["cat", "dog"]
    assert losses.class_weights("none", labels, [1, 2], images=3) is None
    assert losses.class_weights({"dog": 4}, labels, [1, 2], images=3) == [1.0, 4.0]
    assert losses.class_weights("balanced", labels, [0, 3], images=3) == [1.0, 0.5]
    assert losses.class_weights("balanced", labels, [2, 8], images=10, multi_label=True) == [4.0, 0.25]
    with pytest.raises(UsageError, match="'dgo', which is no class: did you mean 'dog'"):
        losses.class_weights({"dgo": 4}, labels, [1, 2], images=3)
    with pytest.raises(UsageError, match="more than 0"):
        losses.class_weights({"dog": 0}, labels, [1, 2], images=3)


@pytest.mark.parametrize(
    ("name", "task", "multi_label", "message"),
    [
        ("cros_entropy", "classify", False, "did you mean 'cross_entropy'"),
        ("cross_entropy", "classify", True, "several labels each: use binary_cross_entropy"),
        ("binary_focal", "classify", False, "one label each: use cross_entropy"),
        ("cross_entropy", "embed", False, "not one of task embed"),
        ("auto", "detect", False, "brings its own"),
    ],
)
def test_losses_that_do_not_fit_are_refused(name, task, multi_label, message):
    with pytest.raises(UsageError, match=message):
        losses.build_loss(LossConfig(name=name), task=task, classes=3, multi_label=multi_label)
