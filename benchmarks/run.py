"""``make bench``: all contenders in turn, several rounds, on the same lake; prints and writes the figures.

Each contender is run as a whole process at two sizes. With ``t1`` seconds for ``n1`` images and ``t2`` for
``n2``, the steady rate is ``(n2 - n1) / (t2 - t1)`` images/s and the fixed cost (start, imports, model load)
is ``t2 - n2 / rate`` seconds; medians over rounds. The raw limits are timed inside their process, without
start-up. The limit of embedding and of detection is ``1 / (1 / decode + 1 / model)``: both need the same
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import lake, reading, stream, warehouse

CONTENDERS = {
    "embed": ("embed_ours", "embed_stock", "embed_tfdata"),
    "detect": ("detect_ours",),
    "tfrecords": ("tfrecords_ours", "tfrecords_stock", "tfrecords_tfdata"),
}
LIMITS = {
    "embed": ("limit_decode", "limit_model"),
    "detect": ("limit_decode_320", "limit_detector"),
    "tfrecords": ("limit_decode_full",),
}
STREAM = "stream"
APART = {"reading": reading.main, "warehouse": warehouse.main}
HEADINGS = {"embed": "Embedding", "detect": "Detection", "tfrecords": "TFRecord creation"}
TITLES = {
    "ours": "beam-vision",
    "stock": "Beam's stock way",
    "tfdata": "tf.data",
}


def make_model(folder: Path) -> Path:
    """The SavedModel (and the weights for the stock handler), made once."""
    if not (folder / "stock.weights.h5").exists():
        code = (
            "import sys; from benchmarks import stock; m = stock.make_model(); m.export(sys.argv[1]); "
            "m.save_weights(sys.argv[1] + '/stock.weights.h5')"
        )
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def make_detector(folder: Path) -> Path:
    """The detector's SavedModel, made once."""
    if not (folder / "saved_model.pb").exists():
        code = "import sys; from benchmarks import detector; detector.export(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def run_once(name: str, count: int, args: argparse.Namespace) -> dict:
    work = args.folder / "work" / name
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.contenders", name, f"--lake={args.lake}", f"--count={count}"]
    command += [f"--work={work}", f"--model={args.model}", f"--detector={args.detector}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    wall_sec = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    shutil.rmtree(work, ignore_errors=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts.get("outputs", count) != count:
        raise RuntimeError(f"{name} gave {facts['outputs']} of {count} images")
    return {"name": name, "count": count, "wall_sec": wall_sec, **facts}


def _is_limit(name: str) -> bool:
    return name.startswith("limit_")


def measure(names: tuple[str, ...], args: argparse.Namespace) -> list[dict]:
    """All contenders at both sizes, in turn, ``args.rounds`` times."""
    runs = []
    for round_number in range(args.rounds):
        for name in names:
            counts = (args.count,) if _is_limit(name) else (args.small, args.count)
            for count in counts:
                run = run_once(name, count, args)
                runs.append(run)
                said = f"{run.get('steady_per_sec', 0):.1f} images/s" if _is_limit(name) else ""
                took = f"{count:>5} images {run['wall_sec']:7.1f} s"
                sys.stderr.write(f"round {round_number + 1}: {name:<18} {took} {said}\n")
    return runs


def figures(runs: list[dict], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Steady rate and fixed cost of each contender: medians over rounds."""
    result = {}
    for name in dict.fromkeys(run["name"] for run in runs):
        mine = [run for run in runs if run["name"] == name]
        if _is_limit(name):
            result[name] = {"rate": statistics.median(run["steady_per_sec"] for run in mine)}
            continue
        small = [run["wall_sec"] for run in mine if run["count"] == args.small]
        large = [run["wall_sec"] for run in mine if run["count"] == args.count]
        if any(b <= a for a, b in zip(small, large, strict=True)):
            raise RuntimeError(
                f"{name}: {args.count} images took no longer than {args.small}: the sizes are too small for "
                "this machine's noise; give a larger --count"
            )
        rates = [(args.count - args.small) / (b - a) for a, b in zip(small, large, strict=True)]
        rate = statistics.median(rates)
        result[name] = {
            "rate": rate,
            "fixed_sec": statistics.median(large) - args.count / rate,
            "lowest": min(rates),
            "highest": max(rates),
        }
    return result


def table(found: dict[str, dict[str, float]], names: tuple[str, ...], limit: float, title: str) -> str:
    lines = [f"### {title}", "", "| | images/s (range) | of the limit | fixed cost |", "|---|---|---|---|"]
    lines.append(f"| the raw limit | {limit:.1f} | 100 % | |")
    for name in names:
        row = found[name]
        rates = f"{row['rate']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})"
        share, fixed = f"{row['rate'] / limit:.0%}", f"{row['fixed_sec']:.1f} s"
        lines.append(f"| {TITLES[name.split('_')[1]]} | {rates} | {share} | {fixed} |")
    return "\n".join(lines)


def together(rates: list[float]) -> float:
    """The rate of steps one after the other: they need the same cores."""
    return 1 / sum(1 / rate for rate in rates)


def report(found: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    shares = ", ".join(f"{share:.0%} of {name}" for name, share in lake.SHARES.items())
    alone = ", ".join(f"{name} {row['rate']:.1f}" for name, row in found.items() if _is_limit(name))
    return "\n\n".join(
        [
            f"Machine: {machine()}. Lake: {args.count} JPEGs ({shares}). {args.rounds} rounds, sizes "
            f"{args.small} and {args.count}. Alone, in images/s: {alone}.",
            *(
                table(
                    found,
                    CONTENDERS[what],
                    together([found[name]["rate"] for name in LIMITS[what]]),
                    HEADINGS[what],
                )
                for what in args.only
            ),
        ]
    )


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("bench-output"), help="where everything is written"
    )
    parser.add_argument("--count", type=int, default=2000, help="images of the larger size")
    parser.add_argument("--small", type=int, default=500, help="images of the smaller size")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs at each size")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*CONTENDERS, STREAM, *APART],
        default=[*CONTENDERS, *APART],
        help="what to compare; stream goes alone",
    )
    parser.add_argument("--backlog", type=int, default=600, help="stream: messages that are there at once")
    parser.add_argument("--step_sec", type=float, default=8.0, help="stream: how long each rate is held")
    parser.add_argument("--memory_sec", type=float, default=120.0, help="stream: how long memory is watched")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    if STREAM in args.only:
        return parser.error("stream goes alone") if len(args.only) > 1 else stream.main(args, machine())
    for name in [name for name in args.only if name in APART]:
        APART[name](args, machine())
    args.only = [name for name in args.only if name not in APART]
    if not args.only:
        return 0
    args.lake = lake.make(args.folder / "lake", args.count)
    args.model = make_model(args.folder / "model")
    args.detector = make_detector(args.folder / "detector")
    runs = measure(tuple(name for what in args.only for name in LIMITS[what] + CONTENDERS[what]), args)
    (args.folder / "runs.json").write_text(json.dumps(runs, indent=1))
    text = report(figures(runs, args), args)
    (args.folder / "figures.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
