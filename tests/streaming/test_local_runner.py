"""The local streaming runner: everything once in effect, whatever happens to the process."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import apache_beam as beam
import local_runner_steps as steps
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_vision.errors import UsageError
from beam_vision.stream_types import Message
from beam_vision.streaming.feeds.base import Feed, Received
from beam_vision.streaming.local.checkpoint import Checkpoint
from beam_vision.streaming.local.runner import LocalStreamRunner, RunnerSettings
from beam_vision.streaming.local.source import ReadFeed
from beam_vision.streaming.local.state import Cell, Due, Store
from beam_vision.streaming.local.watermark import Watermark


class FileFeed(Feed):
    """Numbers 0..n-1 as messages, acknowledged in a file: what isn't, comes again in the next process."""

    source = "numbers"

    def __init__(self, folder, n, *, size=7):
        self.folder, self.n, self.size = Path(folder), n, size
        self.folder.mkdir(exist_ok=True)
        self.handed, self.stopped = set(), False

    def acked(self):
        path = self.folder / "acked"
        return {int(line) for line in path.read_text().split()} if path.exists() else set()

    def open(self):
        done = self.acked()
        self.left = [i for i in range(self.n) if i not in done]

    def pull(self, max_messages, max_bytes, timeout_sec):
        size = min(max_messages, self.size)
        taken, self.left = self.left[:size], self.left[size:]
        if not taken:
            time.sleep(timeout_sec)
        return [
            Received(Message(data=b"%d" % i, message_id=str(i), publish_sec=float(i)), str(i)) for i in taken
        ]

    def ack(self, tokens):
        with open(self.folder / "acked", "a") as stream:
            stream.write("".join(f"{token}\n" for token in tokens))

    def stop(self):
        self.left, self.stopped = [], True

    def close(self):
        pass

    @property
    def exhausted(self):
        return not self.left

    @property
    def waiting(self):
        return len(self.left)


def run(build, feed, state, **settings):
    settings = {"save_every_sec": 0.0, "wait_sec": 0.01, **settings}
    runner = LocalStreamRunner(feed, str(state), settings=RunnerSettings(**settings))
    pipeline = beam.Pipeline(runner=runner)
    build(pipeline | ReadFeed())
    return pipeline.run().wait_until_finish()


def lines(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def test_elements_pass_all_steps_and_tags_and_flattens(tmp_path):
    def build(messages):
        numbers = messages | beam.Map(steps.number)
        split = numbers | beam.ParDo(steps.Split()).with_outputs("odd", main="even")
        both = (split.even | "E" >> beam.Map(str), split.odd | "O" >> beam.Map(steps.odd)) | beam.Flatten()
        both | beam.ParDo(steps.Append(str(tmp_path / "out")))

    assert run(build, FileFeed(tmp_path / "feed", 10), tmp_path / "state") == "DONE"
    assert sorted(lines(tmp_path / "out")) == sorted(["0", "2", "4", "6", "8", "o1", "o3", "o5", "o7", "o9"])
    assert FileFeed(tmp_path / "feed", 10).acked() == set(range(10))


def test_what_a_bundle_gives_at_its_end_is_taken(tmp_path):
    def build(messages):
        gathered = messages | beam.Map(steps.number) | beam.ParDo(steps.SumAtEnd())
        gathered | beam.Map(str) | beam.ParDo(steps.Append(str(tmp_path / "out")))

    run(build, FileFeed(tmp_path / "feed", 10, size=5), tmp_path / "state")
    assert lines(tmp_path / "out") == ["10", "35"]


def test_state_and_real_time_timers(tmp_path):
    def build(messages):
        keyed = messages | beam.Map(steps.number) | beam.Map(steps.by_parity)
        keyed | beam.ParDo(steps.CountAndFlush(0.05)) | beam.ParDo(steps.Append(str(tmp_path / "out")))

    feed = FileFeed(tmp_path / "feed", 20, size=4)
    run(build, feed, tmp_path / "state")
    assert lines(tmp_path / "out")[-2:] == ["even=10", "odd=10"]


def test_event_time_timers_fire_in_order_and_once_the_watermark_has_passed(tmp_path):
    def build(messages):
        frames = messages | beam.Map(steps.frame_of) | beam.ParDo(steps.MarkTime())
        windowed = frames | beam.Map(steps.by_camera) | beam.WindowInto(beam.window.FixedWindows(10))
        windowed | beam.ParDo(steps.CountWindow()) | beam.ParDo(steps.Append(str(tmp_path / "out")))

    run(build, FileFeed(tmp_path / "feed", 35), tmp_path / "state")
    assert lines(tmp_path / "out") == ["0:10", "10:10", "20:10", "30:5"]


def test_the_same_steps_give_the_same_on_beams_own_runner():
    with beam.Pipeline(FnApiRunner()) as pipeline:
        timed = pipeline | beam.Create(range(35)) | beam.Map(steps.timed)
        windowed = timed | beam.WindowInto(beam.window.FixedWindows(10))
        assert_that(windowed | beam.ParDo(steps.CountWindow()), equal_to(["0:10", "10:10", "20:10", "30:5"]))


def test_a_step_that_raises_ends_the_run_and_nothing_of_its_turn_is_acknowledged(tmp_path):
    def build(messages):
        messages | beam.Map(steps.number) | beam.Map(steps.fails_at_12)

    feed = FileFeed(tmp_path / "feed", 20, size=5)
    with pytest.raises(ValueError, match="twelve"):
        run(build, feed, tmp_path / "state")
    assert FileFeed(tmp_path / "feed", 20).acked() == set(range(10))


def test_what_the_graph_may_not_hold_is_refused_by_name(tmp_path):
    def build(messages):
        keyed = messages | beam.Map(steps.by_message) | beam.WindowInto(beam.window.FixedWindows(1))
        keyed | "Together" >> beam.GroupByKey()

    with pytest.raises(UsageError, match=r"Together.*ParDo without side inputs"):
        run(build, FileFeed(tmp_path / "feed", 1), tmp_path / "state")


def counting(folder):
    def build(messages):
        keyed = messages | beam.Map(steps.number) | beam.Map(steps.by_parity)
        keyed | beam.ParDo(steps.CountAndFlush(0.01)) | beam.ParDo(steps.Append(f"{folder}/out"))

    return build


def start_process(folder, n, tmp_state):
    """A child (a fork of this warm process) that runs the counting job; ends only by itself or a kill."""
    child = os.fork()
    if child == 0:
        try:
            run(counting(folder), FileFeed(f"{folder}/feed", n, size=3), tmp_state, save_every_sec=0.005)
        finally:
            os._exit(0)
    return child


def test_counts_in_state_are_exact_over_kills_at_any_moment(tmp_path):
    n, kills, feed = 3000, 12, FileFeed(tmp_path / "feed", 3000)
    for i in range(kills):
        child = start_process(tmp_path, n, tmp_path / "state")
        end = time.monotonic() + 5  # a fork of a process with threads may hang: it is killed like the others
        while len(feed.acked()) <= i * n // (2 * kills) and time.monotonic() < end:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert 0 < len(feed.acked()) < n, "no kill hit the work"
    run(counting(tmp_path), FileFeed(tmp_path / "feed", n, size=3), tmp_path / "state")
    assert FileFeed(tmp_path / "feed", n).acked() == set(range(n))
    last = dict(line.split("=") for line in lines(tmp_path / "out"))
    assert last == {"even": str(n // 2), "odd": str(n // 2)}


def test_a_message_that_comes_again_is_known_by_its_id_until_it_is_forgotten(tmp_path):
    for remember_sec, count in ((900.0, "10"), (0.0, "20")):
        folder = tmp_path / count
        folder.mkdir()
        feed = FileFeed(folder / "feed", 20)
        for _ in range(2):  # the second time nothing is acknowledged: the file is gone
            run(counting(folder), feed, folder / "state", remember_sec=remember_sec)
            (folder / "feed" / "acked").unlink()
        assert lines(folder / "out")[-2:] == [f"even={count}", f"odd={count}"]


def test_stop_drains_and_a_later_run_goes_on_with_open_windows(tmp_path):
    def build(messages):
        frames = messages | beam.Map(steps.frame_of) | beam.ParDo(steps.MarkTime())
        windowed = frames | beam.Map(steps.by_camera) | beam.WindowInto(beam.window.FixedWindows(1000))
        windowed | beam.ParDo(steps.CountWindow()) | beam.ParDo(steps.Append(str(tmp_path / "out")))

    run(build, FileFeed(tmp_path / "feed", 10), tmp_path / "state")
    assert lines(tmp_path / "out") == ["0:10"]
    run(build, FileFeed(tmp_path / "feed", 25), tmp_path / "state")
    assert lines(tmp_path / "out") == ["0:10", "0:25"]


def until(happened):
    while not happened():
        time.sleep(0.01)
    return True


def test_stop_from_another_thread_ends_the_run_soon(tmp_path):
    stop = threading.Event()
    feed = FileFeed(tmp_path / "feed", 10**6, size=1)
    settings = RunnerSettings(save_every_sec=0.0)
    runner = LocalStreamRunner(feed, str(tmp_path / "state"), stop=stop, settings=settings)
    pipeline = beam.Pipeline(runner=runner)
    pipeline | ReadFeed() | beam.Map(steps.number)
    watcher = threading.Thread(target=lambda: until(feed.acked) and stop.set())
    watcher.start()
    pipeline.run()
    watcher.join()
    assert feed.stopped
    assert 0 < len(FileFeed(tmp_path / "feed", 1).acked()) < 10**6


def test_the_state_folder_is_of_one_process_and_one_job(tmp_path):
    run(counting(tmp_path), FileFeed(tmp_path / "feed", 4), tmp_path / "state")
    with pytest.raises(UsageError, match=r"also has the step ParDo\(CountAndFlush\)"):
        run(
            lambda messages: messages | beam.Map(steps.number),
            FileFeed(tmp_path / "f", 4),
            tmp_path / "state",
        )
    held = Checkpoint(str(tmp_path / "held"), steps=())
    with pytest.raises(UsageError, match="in use by another process"):
        run(counting(tmp_path), FileFeed(tmp_path / "f", 4), tmp_path / "held")
    held.close()


def test_steps_may_be_added_and_those_without_state_taken_away(tmp_path):
    def more(messages):
        counting(tmp_path)(messages)
        keyed = messages | "N" >> beam.Map(steps.number) | "K" >> beam.Map(steps.by_parity)
        keyed | "More" >> beam.ParDo(steps.CountAndFlush(0.01)) | beam.Map(steps.odd)

    run(counting(tmp_path), FileFeed(tmp_path / "feed", 10), tmp_path / "state")
    run(more, FileFeed(tmp_path / "feed", 20), tmp_path / "state")
    assert lines(tmp_path / "out")[-2:] == ["even=10", "odd=10"]


def cell(name):
    return Cell("s", "k", None, name)


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
def test_a_record_that_was_cut_off_does_not_count_and_those_before_do(tmp_path, cut):
    first, store = Checkpoint(str(tmp_path), steps={"s"}), Store()
    first.load(store)
    store.put(cell("a"), 1)
    first.save(store, {"turn": 1})
    size = sum(path.stat().st_size for path in tmp_path.glob("journal-*"))
    store.put(cell("a"), 2)
    store.set_timer(due("t"), 5)
    first.save(store, {"turn": 2})
    first.close()
    (journal,) = tmp_path.glob("journal-*")
    data = journal.read_bytes()
    journal.write_bytes(data[: size + cut] if cut else data)
    again, restored = Checkpoint(str(tmp_path), steps={"s"}), Store()
    facts = again.load(restored)
    again.close()
    assert (restored.get(cell("a")), facts["turn"]) == ((1, 1) if cut else (2, 2))


def due(name):
    return Due("s", "k", None, name, "", beam.transforms.timeutil.TimeDomain.REAL_TIME)


def test_the_journal_becomes_a_base_when_it_has_grown(tmp_path):
    checkpoint, store = Checkpoint(str(tmp_path), steps={"s"}), Store()
    checkpoint.load(store)
    for i in range(12):
        store.put(cell("big"), bytes([i]) * 10**6)
        store.put(cell(f"c{i}"), i)
        checkpoint.save(store, {"i": i})
    checkpoint.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 9 * 10**6
    restored = Store()
    again = Checkpoint(str(tmp_path), steps={"s"})
    assert again.load(restored) == {"i": 11}
    again.close()
    assert restored.cells == store.cells


def test_unreadable_state_is_a_clear_error(tmp_path):
    (tmp_path / "base").write_bytes(pickle.dumps([1])[:-1])
    with pytest.raises(UsageError, match=r"can't be read.*move it away"):
        Checkpoint(str(tmp_path), steps={"s"}).load(Store())


def test_the_watermark_follows_captures_then_the_clock_and_never_goes_back():
    mark = Watermark(5.0)
    assert mark.advance(1000.0) == 995.0
    mark.observe(1001.0, 999.0)
    assert mark.advance(1001.0) == 999.0
    mark.observe(1002.0, 1001.5)
    mark.observe(1003.0, 990.0)  # far out of order: it is late, and holds for a while
    assert mark.advance(1003.0) == 999.0
    assert mark.advance(1007.9) == 999.0
    assert mark.advance(1008.1) == pytest.approx(1003.1)
