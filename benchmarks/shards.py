"""An index in shards against one piece: seconds to build, peak memory, recall@10 and a query's milliseconds.

Each build is a process of its own, so that its peak is its own; the table is written once. The same rows, the
same recall target; ``python -m benchmarks.shards --output shards.json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.pipelines.cli import main as beam_vision
from beam_vision.search.index import open_index, open_table
from beam_vision.testing.tables import clustered, write_embeddings

K = 10
MIB = 2**20


def build(table: str, index: str, shards: int) -> dict[str, Any]:
    """Builds here; ``shards`` 0: one piece."""
    argv = ["build-index", "--table", table, "--output", index]
    argv += ["--shards", str(shards)] if shards else []
    import_everything()
    before_mib = peak_mib()
    start = time.perf_counter()
    if beam_vision(argv):
        raise RuntimeError(f"{' '.join(argv)} failed")
    took_sec = time.perf_counter() - start
    return {"build_sec": round(took_sec, 1), "peak_mib": peak_mib(), "before_mib": before_mib}


def import_everything() -> None:
    """What any build loads; its memory and time are no shard's."""
    deps.scann()
    importlib.import_module("beam_vision.search.transforms")


def peak_mib() -> int:
    """The most memory that this program held so far, in MiB; Linux (getrusage counts its parent's, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 // MIB


def search(table: str, index: str, queries: int) -> dict[str, Any]:
    """Recall@10 of the index as it is opened, and a query's time alone."""
    opened, exact = open_index(index), open_table(table)
    asked = exact.index.store.vectors[:: max(1, len(exact) // queries)][:queries]
    asked = asked + np.random.default_rng(1).normal(0, 0.02, asked.shape).astype(np.float32)
    truth = exact.search(asked, K).neighbors
    spent, right = [], 0
    for query, near in zip(asked, truth, strict=True):
        start = time.perf_counter()
        (found,) = opened.search(query, K).neighbors
        spent.append(1000 * (time.perf_counter() - start))
        right += sum(each.score >= near[-1].score for each in found)
    return {
        "backend": opened.backend,
        "recall_at_10": round(right / (K * len(asked)), 4),
        "said_recall_at_10": opened.manifest.recall_at_10 if opened.manifest else None,
        "query_ms_median": round(statistics.median(spent), 3),
    }


def child(*arguments: str) -> dict[str, Any]:
    """One step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.shards", *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(rows: int, dimension: int, counts: list[int], queries: int) -> dict[str, Any]:
    """All builds, one after the other, and the searches in each."""
    found: dict[str, Any] = {
        "rows": rows,
        "dimension": dimension,
        "vectors_mib": rows * dimension * 4 // MIB,
        "cpus": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as folder:
        table = os.path.join(folder, "table")
        write_embeddings(table, clustered(rows, dimension, clusters=200), parts=8)
        for shards in counts:
            name, index = f"{shards} shards" if shards else "one piece", os.path.join(folder, f"i{shards}")
            sys.stderr.write(f"{name}\n")
            found[name] = child("--build", table, index, str(shards))
            found[name] |= child("--search", table, index, str(queries))
            storage.delete_folder(index)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--shards", type=int, nargs="+", default=[0, 1, 8], help="0: one piece")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--output", help="write the figures to this file as JSON")
    parser.add_argument("--build", nargs=3, metavar=("TABLE", "INDEX", "SHARDS"), help=argparse.SUPPRESS)
    parser.add_argument("--search", nargs=3, metavar=("TABLE", "INDEX", "QUERIES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        table, index, number = options.build
        print(json.dumps(build(table, index, int(number))))
    elif options.search:
        table, index, number = options.search
        print(json.dumps(search(table, index, int(number))))
    else:
        found = run(options.rows, options.dimension, options.shards, options.queries)
        text = json.dumps(found, indent=2)
        print(text)
        if options.output:
            Path(options.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
