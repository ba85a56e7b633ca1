"""``make bench-stream``: ``beam-vision stream`` against a bare loop, on the Pub/Sub emulator, in one run.

All contenders are started once, warmed up, and then take turns: while one works the others are paused. In
each round each has a backlog to work off (its top rate), then messages at rising shares of the bare loop's
top rate. A latency is from when the cameras published to when Pub/Sub stored the row (its publish time): the
subscriber of rows that notes it may take its time. Last, resident memory over a longer run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from beam_vision import pubsub
from beam_vision.streaming.capture_time import parse_time
from beam_vision.streaming.emulator import Emulator, find_emulator
from benchmarks import stream_figures as figures
from benchmarks.stream_figures import BARE, Memory, Run
from benchmarks.stream_processes import CamerasProcess, Contender, MemoryWatch, processor_times, stolen

PROJECT = "bench"
NAMES = (BARE, "topic", "folder")
SHARES = (0.25, 0.5, 0.75, 0.9)
SETTLE_SEC = 1.5
"""So long a contender has after its turn to acknowledge, and before it to find its connection again."""
DROPPED_SEC = 1.0
"""The first messages of a step are left out."""
STUCK_SEC = 90.0
MOST_STOLEN = 0.03
"""A step in which the hypervisor withheld a larger share of the processors is taken again."""
TRIES = 3
_LOOK_SEC = 0.3
_RPC_SEC = 20.0


class Rows:
    """The subscriber of one contender's rows."""

    def __init__(self, subscription: str) -> None:
        self._client = pubsub.subscriber()
        self._subscription = subscription
        self.times: dict[tuple[str, str], float] = {}

    def take(self) -> None:
        """Takes what is there: of each row the first time that it was written."""
        request = {"subscription": self._subscription, "max_messages": 1000, "return_immediately": True}
        while received := self._client.pull(request=request, timeout=_RPC_SEC).received_messages:
            for item in received:
                attributes = item.message.attributes
                if attributes["table"] == "predictions":
                    key = attributes["camera"], attributes["time"]
                    self.times.setdefault(key, item.message.publish_time.timestamp())
            ids = [item.ack_id for item in received]
            self._client.acknowledge(subscription=self._subscription, ack_ids=ids, timeout=_RPC_SEC)

    def wait_for(self, count: int, contender: Contender) -> dict[tuple[str, str], float]:
        """All rows of a step, once they are there."""
        seen, moved = -1, time.monotonic()
        while len(self.times) < count:
            contender.check()
            time.sleep(_LOOK_SEC)
            self.take()
            if len(self.times) > seen:
                seen, moved = len(self.times), time.monotonic()
            elif time.monotonic() > moved + STUCK_SEC:
                raise RuntimeError(f"{contender.name} wrote {seen} of {count} rows: {contender.said()}")
        found, self.times = self.times, {}
        return found


class Bench:
    """The benchmark's topics and processes.

    Args:
      args: of the command line.
      stack: ends the processes.
    """

    def __init__(self, args: argparse.Namespace, stack: ExitStack) -> None:
        self._args = args
        emulator = stack.enter_context(Emulator())
        self._environ = emulator.environ
        os.environ.update(self._environ)
        self._rows = {name: self._make_topics(name) for name in NAMES}
        self.cameras = CamerasProcess(self._environ)
        stack.callback(self.cameras.stop)
        self.contenders: dict[str, Contender] = {}
        for name in NAMES:
            contender = Contender(name, self._command(name), self._environ, args.folder / "stream")
            stack.callback(contender.stop)
            contender.wait_until_ready()
            contender.pause()
            self.contenders[name] = contender

    def _make_topics(self, name: str) -> Rows:
        publisher, subscriber = pubsub.publisher(), pubsub.subscriber()
        for what in ("frames", "rows", "failed"):
            topic = _path("topics", f"{what}-{name}")
            publisher.create_topic(request={"name": topic}, timeout=_RPC_SEC)
            request = {"name": _path("subscriptions", f"{what}-{name}"), "topic": topic}
            subscriber.create_subscription(request={**request, "ack_deadline_seconds": 60}, timeout=_RPC_SEC)
        return Rows(_path("subscriptions", f"rows-{name}"))

    def _command(self, name: str) -> list[str]:
        source, topic = _path("subscriptions", f"frames-{name}"), _path("topics", f"rows-{name}")
        model = str(self._args.classifier)
        if name == BARE:
            return ["benchmarks.stream_bare", f"--model={model}", f"--input={source}", f"--output={topic}"]
        work = self._args.folder / "stream" / name
        shutil.rmtree(work, ignore_errors=True)
        outputs = [f"pubsub://{topic}", *([str(work / "table")] if name == "folder" else [])]
        return [
            *("beam_vision.pipelines.cli", "stream", "--task=classify", f"--model={model}"),
            *(f"--input=pubsub://{source}", f"--output={','.join(outputs)}", f"--state={work / 'state'}"),
            f"--failures=pubsub://{_path('topics', f'failed-{name}')}",
        ]

    def quiet_step(self, name: str, round_number: int, share: float, rate: float, count: int) -> Run:
        """As :meth:`step`; of a few tries the one that least was stolen from, the first quiet one."""
        best: Run | None = None
        for _ in range(TRIES):
            run = self.step(name, round_number, share, rate, count)
            if best is None or run.stolen < best.stolen:
                best = run
            if best.stolen <= MOST_STOLEN:
                break
        assert best is not None
        return best

    def step(self, name: str, round_number: int, share: float, rate: float, count: int) -> Run:
        """One contender's turn: ``count`` messages at a rate, or all at once for 0."""
        contender, rows = self.contenders[name], self._rows[name]
        topic = _path("topics", f"frames-{name}")
        if not rate:  # the backlog is there before it begins
            self.cameras.start(topic, count, 0)
            sent = self.cameras.done()
        contender.resume()
        if rate:
            time.sleep(SETTLE_SEC)
            self.cameras.start(topic, count, rate)
        used_sec, was = contender.cpu_sec(), processor_times()
        if rate:
            sent = self.cameras.done()
        found = rows.wait_for(count, contender)
        used_sec = contender.cpu_sec() - used_sec
        lost = stolen(was, processor_times())
        time.sleep(SETTLE_SEC)
        contender.pause()
        cpu_ms, mib = 1000 * used_sec / count, contender.memory_mib()
        step = Run(name, round_number, share, rate, cpu_ms=cpu_ms, mib=mib, stolen=lost)
        return with_figures(step, found, sent)

    def memory(self, name: str, rate: float, seconds: float) -> Memory:
        """A contender's memory while messages come at a rate."""
        contender, count = self.contenders[name], round(rate * seconds)
        contender.resume()
        time.sleep(SETTLE_SEC)
        watch = MemoryWatch(contender)
        watch.start()
        self.cameras.start(_path("topics", f"frames-{name}"), count, rate)
        self._rows[name].wait_for(count, contender)
        watch.stop()
        self.cameras.done()
        contender.pause()
        return Memory(watch.seconds, watch.mib, count)


def _path(kind: str, name: str) -> str:
    return f"projects/{PROJECT}/{kind}/{name}"


def with_figures(run: Run, found: dict[tuple[str, str], float], sent: dict[str, Any]) -> Run:
    """The run with its latencies; of a backlog with its rate.

    Args:
      run: of one step.
      found: (camera, capture time) of each row, and when Pub/Sub stored it.
      sent: what the cameras told of the step.
    """
    if not run.rate:
        return dataclasses.replace(run, rate=figures.drained_rate(list(found.values())))
    first = sent["start_sec"] + DROPPED_SEC
    published = {key: parse_time(key[1]) for key in found}
    latencies = [1000 * (found[key] - at) for key, at in published.items() if at >= first]
    return dataclasses.replace(run, latencies_ms=latencies, late_ms=1000 * sent["late_sec"])


def measure(bench: Bench, args: argparse.Namespace) -> list[Run]:
    """Warms all up, then all rounds."""
    for name in NAMES:
        bench.step(name, 0, 0.0, 0.0, args.backlog // 2)
        bench.step(name, 0, SHARES[0], 20.0, 60)
    runs: list[Run] = []
    for round_number in range(1, args.rounds + 1):
        for share in (0.0, *SHARES):
            for name in NAMES if round_number % 2 else reversed(NAMES):
                rate = (
                    share * figures.top_rate([run for run in runs if run.round == 1], BARE) if share else 0.0
                )
                count = round(rate * args.step_sec) if rate else args.backlog
                run = bench.quiet_step(name, round_number, share, rate, count)
                runs.append(run)
                _say(run)
    return runs


def _say(run: Run) -> None:
    text = f"{run.rate:.1f} messages/s, {run.cpu_ms:.1f} ms of processor each, {run.stolen:.0%} stolen"
    if run.latencies_ms:
        shown = (f"p{100 * q:g} {figures.quantile(run.latencies_ms, q):.0f}" for q in figures.QUANTILES)
        text += f", {', '.join(shown)} ms (publisher up to {run.late_ms:.0f} ms late)"
    sys.stderr.write(f"round {run.round}: {run.name:<7} {run.share:>4.0%} {text}\n")


def report(runs: list[Run], memory: Memory | None, about: str) -> str:
    """The figures as a page."""
    tables = (figures.top_table(runs, NAMES), figures.latency_table(runs, NAMES))
    return "\n\n".join(["### Streaming", about, *tables, figures.verdict(runs, memory, NAMES)])


def main(args: argparse.Namespace, machine: str) -> int:
    """Runs it; the figures go to ``stream-figures.md``, all that was measured to ``stream-runs.json``."""
    if find_emulator() is None:
        sys.stderr.write("no Pub/Sub emulator found: gcloud components install pubsub-emulator\n")
        return 1
    args.classifier = make_classifier(args.folder / "classifier")
    with ExitStack() as stack:
        bench = Bench(args, stack)
        runs = measure(bench, args)
        memory = None
        if args.memory_sec:
            rate = figures.HALF * figures.top_rate(runs, BARE)
            memory = bench.memory("folder", rate, args.memory_sec)
        about = (
            f"Machine: {machine}. MobileNetV2 with 1,000 classes, frames of "
            f"{bench.cameras.frame_bytes / 1000:.0f} KB from 4 cameras; {args.rounds} rounds, backlogs of "
            f"{args.backlog} messages, steps of {args.step_sec:g} s. Stolen by the hypervisor: "
            f"{max(run.stolen for run in runs):.0%} in the worst step that counts."
        )
        text = report(runs, memory, about)
    kept = {
        "runs": [dataclasses.asdict(run) for run in runs],
        "memory": dataclasses.asdict(memory) if memory else None,
    }
    (args.folder / "stream-runs.json").write_text(json.dumps(kept))
    (args.folder / "stream-figures.md").write_text(text + "\n")
    print(text)
    return 0


def make_classifier(folder: Path) -> Path:
    """The SavedModel, made once."""
    if not (folder / "saved_model.pb").exists():
        code = "import sys; from benchmarks import classifier; classifier.export(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder
