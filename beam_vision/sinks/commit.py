"""The end of a run: accounts are checked, parts put in place, the manifest written, the old removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks.letters import Letter
from beam_vision.sinks.output import STAGING, OutputPlan
from beam_vision.sinks.parts import PART_BYTES, PartTask, RowFile, find_repeated, plan_parts
from beam_vision.sinks.rows import RowSettings
from beam_vision.table import MANIFEST, Part, TableManifest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Where each image went: ``inputs == outputs + failed + already_done``.

    Attributes:
      inputs: images that came in.
      outputs: images whose rows this run staged.
      failed_by_reason: images in the dead letter.
      already_done: images left out because their rows are kept from an earlier run.
    """

    inputs: int
    outputs: int
    failed_by_reason: dict[str, int]
    already_done: int = 0

    @property
    def failed(self) -> int:
        """Images in the dead letter."""
        return sum(self.failed_by_reason.values())

    def check(self) -> None:
        """Raises JobError unless every image is accounted for."""
        found = self.outputs + self.failed + self.already_done
        if self.inputs != found:
            raise JobError(
                f"{self.inputs} images came in, but {self.outputs} came out, {self.failed} failed and "
                f"{self.already_done} were done before: {found} in all; nothing was committed"
            )


@dataclass(frozen=True, kw_only=True)
class Commit:
    """All that the last steps need to know, decided once.

    Attributes:
      tasks: the parts to write.
      stay: the parts of the table that stay as they are.
      accounts: where each image went.
      failures: what goes into the dead letter.
    """

    tasks: tuple[PartTask, ...]
    stay: tuple[Part, ...]
    accounts: Accounts
    failures: tuple[dead_letter.StagedFailures, ...]


def plan_commit(
    output: OutputPlan,
    settings: RowSettings,
    *,
    staged: Sequence[RowFile],
    kept: Sequence[RowFile],
    failures: Sequence[dead_letter.StagedFailures],
    inputs: int,
    already_done: int,
    part_bytes: int = PART_BYTES,
) -> Commit:
    """Checks the accounts and decides which parts to write. Of rows of one image the kept ones stay.

    Raises:
      JobError: images are unaccounted for; nothing came in, which is no reason to empty a table; or another
        run has written to the folder meanwhile.
    """
    accounts = Accounts(
        inputs=inputs,
        outputs=sum(file.images for file in staged),
        failed_by_reason=dead_letter.count(failures),
        already_done=already_done,
    )
    accounts.check()
    if not inputs and output.found_run_id:
        raise JobError(
            f"no images came in: check --images and --format; the table at {output.folder} was left as it is"
        )
    check_unchanged(output)
    files = sorted(kept, key=lambda file: (not file.is_part, file.path))
    files += sorted(staged, key=lambda file: file.path)
    repeated = find_repeated(files, settings)
    tasks, stay = plan_parts(files, repeated, run_id=output.run_id, part_bytes=part_bytes)
    return Commit(tasks=tuple(tasks), stay=tuple(stay), accounts=accounts, failures=tuple(failures))


def check_unchanged(output: OutputPlan) -> None:
    """Raises JobError when another run has committed to the folder since ``output`` was planned."""
    manifest = read_manifest(output.folder)
    found = manifest.run_id if manifest else ""
    if found not in (output.found_run_id, output.run_id):
        raise JobError(
            f"run {found} has written to {output.folder} since this one began, so nothing was changed; "
            "run again with --resume to add the rows made here"
        )


def commit(
    output: OutputPlan,
    settings: RowSettings,
    plan: Commit,
    written: Sequence[Part],
    *,
    letter: Letter,
    job: str,
) -> TableManifest:
    """Writes the failures, moves the parts into place and writes the manifest, in this order.

    Only then do the failures of the run before stop to count: were it the other way round, a run killed in
    between would leave images that are neither in the table nor in the dead letter. Doing it again, after
    any interruption, gives the same.

    Args:
      written: the parts of ``plan.tasks``, as :func:`~beam_vision.sinks.parts.write_part` gave them.
      letter: where failures go.
      job: the job's name, for ``beam-vision redrive``.

    Raises:
      JobError: another run has written to the folder meanwhile.
    """
    check_unchanged(output)
    summary = letter.prepare(output.run_id, plan.failures)
    parts = sorted([*plan.stay, *written], key=lambda part: part.name)
    for part in written:
        source = storage.join(output.staging("parts"), part.name)
        if storage.exists(source):
            storage.rename(source, storage.join(output.folder, part.name))
    manifest = _manifest(parts, output.run_id, settings, plan.accounts)
    storage.write_json(storage.join(output.folder, MANIFEST), manifest.to_json())
    letter.record(output.run_id, summary, job=job)
    return manifest


def _manifest(parts: list[Part], run_id: str, settings: RowSettings, accounts: Accounts) -> TableManifest:
    return TableManifest(
        parts=parts,
        rows=sum(part.rows for part in parts),
        images=sum(part.images for part in parts),
        row_kind=settings.rows,
        run_id=run_id,
        task=settings.task,
        model_digest=settings.model_digest,
        preprocessing_digest=settings.preprocessing_digest,
        embedding_dim=settings.embedding_dim,
        inputs=accounts.inputs,
        outputs=accounts.outputs,
        failed=accounts.failed,
        already_done=accounts.already_done,
        failed_by_reason=accounts.failed_by_reason,
    )


def clean(output: OutputPlan, manifest: TableManifest, *, letter: Letter) -> None:
    """Removes what was in the folder before and isn't in the manifest, and all that was staged."""
    listed = {part.name for part in manifest.parts}
    for name in output.stale:
        if name not in listed:
            storage.delete(storage.join(output.folder, name))
    clean_staging(output)
    letter.clean(output.run_id)


def clean_staging(output: OutputPlan) -> None:
    """Removes what this run and the killed runs before it have staged."""
    staging = storage.join(output.folder, STAGING)
    for run_id in {*output.stale_runs, output.run_id}:
        storage.delete_folder(storage.join(staging, run_id))
    if not storage.list_tree(staging):
        storage.delete_folder(staging)
