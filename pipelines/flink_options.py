"""Options of Beam's Flink runner that only its job server defines, so that our command lines may give them.

Without them Beam would drop them in silence until a job server has told what it takes, and a misspelt one
always. The server checks their values.
"""

from __future__ import annotations

import argparse

from apache_beam.options.pipeline_options import PipelineOptions

RESTARTS = 3
RESTART_DELAY_MS = 10_000

_INTEGERS = {
    "number_of_execution_retries": (
        f"how often a failed stream is started anew (default: {RESTARTS}; 0: never); "
        "a batch job: as the cluster's restart-strategy says"
    ),
    "execution_retry_delay": f"milliseconds before it does (default: {RESTART_DELAY_MS})",
    "checkpointing_interval": "milliseconds between checkpoints of a stream",
    "checkpoint_timeout_millis": "a checkpoint that takes longer is given up",
    "min_pause_between_checkpoints": "milliseconds between the end of one and the start of the next",
    "max_bundle_size": "elements in a bundle at most",
    "max_bundle_time_mills": "milliseconds until a bundle is ended",
}
_TEXTS = {
    "execution_mode_for_batch": "how Flink hands data on in a batch job: PIPELINED, BATCH_FORCED ...",
    "checkpointing_mode": "EXACTLY_ONCE or AT_LEAST_ONCE",
    "state_backend": "where state is kept: rocksdb or filesystem",
    "state_backend_storage_path": "the folder for it, which all TaskManagers see",
    "savepoint_path": "the savepoint that a stream goes on from",
    "flink_conf_dir": "folder with Flink's configuration, on the job server's machine",
}


class FlinkJobOptions(PipelineOptions):
    """What a job on Flink takes beyond Beam's own ``FlinkRunnerOptions``; None: not given."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for name, text in _INTEGERS.items():
            parser.add_argument(f"--{name}", type=int, default=None, help=text)
        for name, text in _TEXTS.items():
            parser.add_argument(f"--{name}", default=None, help=text)
