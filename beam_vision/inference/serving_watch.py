"""Watches the ``LATEST`` of a root of versions, and brings what it names into service, or says why not."""

from __future__ import annotations

import functools
import gc
import logging
import os
import threading
import time
import weakref
from typing import NamedTuple

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import Guard
from beam_vision.inference.bundle import LATEST_FILE, SPEC_FILE, forget
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving import Served, ServingModel, version_of
from beam_vision.inference.serving_history import read_history, worse_is_wanted
from beam_vision.inference.serving_load import (
    Incumbent,
    ServingSettings,
    describe_candidate,
    load_candidate,
    load_served,
)
from beam_vision.inference.spec import ModelSpec
from beam_vision.stream_types import RolloutEvent
from beam_vision.types import Failure, ImageRef

_LOG = logging.getLogger(__name__)

_EXIT_SEC = 10.0

SERVING, REFUSED = "serving", "refused"
"""The outcomes of a :class:`RolloutEvent`."""


class Pointed(NamedTuple):
    """What ``LATEST`` names, and what tells whether that or its files changed.

    Attributes:
      path: of the version.
      files: path, size in bytes and time of ``LATEST`` and of each of the version's files.
    """

    path: str
    files: tuple[tuple[str, int, float], ...]


def start_serving(
    model_path: str, spec: ModelSpec, settings: EngineSettings, how: ServingSettings
) -> ServingModel:
    """Loads the model that ``LATEST`` names now, or else the one that the job was started with, and watches.

    Args:
      model_path: of the version that the job was started with.
      spec: its.
      settings: what is wanted of each image.
      how: whether and how newer versions are taken in.

    Raises:
      UsageError, VisionError: neither may serve.
    """
    start = time.monotonic()
    watch = Watch(settings, how) if how.root and _has_versions(how.root) else None
    if watch is None or _below(watch.latest(), model_path):
        served = load_served(model_path, spec, settings)
        serving = ServingModel(served, _event(how, served, "", "it was checked before the job began", start))
    else:
        serving = watch.first(Incumbent(model_path, spec))
    if watch is not None:
        watch.start(serving)
    return serving


def _has_versions(root: str) -> bool:
    return LATEST_FILE in storage.list_folder(root)


def _event(how: ServingSettings, served: Served, previous: str, reason: str, start: float) -> RolloutEvent:
    _LOG.info("model %s (%s) serves: %s", served.version, served.digest, reason)
    return RolloutEvent(
        time_sec=time.time(),
        model=how.root or served.path,
        version=served.version,
        model_digest=served.digest,
        previous_digest=previous,
        outcome=SERVING,
        reason=reason,
        load_sec=time.monotonic() - start,
    )


class Watch:
    """Looks at ``LATEST`` from time to time, in a thread that ends with the :class:`ServingModel`.

    What was refused isn't tried again until ``LATEST`` is written anew or the version's files change; and
    then only once they are the same at two looks: they may be on their way.

    Args:
      settings: what is wanted of each image.
      how: where, how often, which checks.
    """

    def __init__(self, settings: EngineSettings, how: ServingSettings) -> None:
        self._settings = settings
        self._how = how
        self._refused: Pointed | None = None
        self._before: Pointed | None = None
        self._changed = False
        self._ended = threading.Event()
        self._at_work = threading.Lock()

    def start(self, serving: ServingModel) -> None:
        """Begins to watch on behalf of ``serving``."""
        weakref.finalize(serving, self._end)
        run = functools.partial(self._run, weakref.ref(serving))
        threading.Thread(target=run, name="beam-vision-rollout", daemon=True).start()

    def _end(self) -> None:
        """Ends the thread, at the end of the process too: a thread that is cut off inside TensorFlow aborts
        the process. So this waits for what it does there, and lets it begin nothing more."""
        self._ended.set()
        self._at_work.acquire(timeout=_EXIT_SEC)

    def _run(self, reference: weakref.ref[ServingModel]) -> None:
        guarded, said = Guard(self._look_for, Stage.INFERENCE), ""
        while not self._ended.wait(self._how.poll_sec):
            found = guarded(ImageRef(LATEST_FILE, self._how.root), reference)
            trouble = found.detail if isinstance(found, Failure) else ""  # storage is away for a moment, say
            if trouble and trouble != said:
                _LOG.warning("the model serves on, but %s can't be looked at: %s", self._how.root, trouble)
            said = trouble

    def _look_for(self, reference: weakref.ref[ServingModel]) -> None:
        serving = reference()
        if serving is None:
            return
        before, self._changed = self._changed, self.look(serving)
        if before or self._changed:
            # TensorFlow's functions refer to each other in circles. The model that was exchanged may be in
            # the middle of its last batch: so the next look collects once more.
            gc.collect()

    def latest(self) -> str:
        """The path of the version that ``LATEST`` names, whether or not it is there; empty where it is empty:
        it is just being written, by something that doesn't rename."""
        root = storage.absolute(self._how.root)
        version = storage.read_text(storage.join(root, LATEST_FILE)).strip()
        return storage.join(root, version) if version else ""

    def pointed(self, path: str) -> Pointed:
        """The facts about the version at ``path``, which ``LATEST`` names."""
        pointer = storage.join(storage.absolute(self._how.root), LATEST_FILE)
        return Pointed(path, (*_facts(pointer), *_facts(path)))

    def look(self, serving: ServingModel) -> bool:
        """Looks once: whether a candidate was tried, and so taken in or refused."""
        path = self.latest()
        if not path:
            return False
        if _below(path, serving.served.path):
            self._refused = None
            return False
        pointed = self.pointed(path)
        if self._refused is not None and pointed.path == self._refused.path:
            moving, self._before = pointed != self._before, pointed
            if pointed == self._refused or moving:
                return False
        self._before = pointed
        start = time.monotonic()
        found = self._try(pointed, Incumbent.of(serving.served))
        previous = serving.served.digest
        if isinstance(found, Failure):
            serving.note(self._refusal(pointed, found.detail, previous, start))
            return True
        self._refused = None
        serving.swap(found[0], _event(self._how, found[0], previous, found[1], start))
        return True

    def first(self, incumbent: Incumbent) -> ServingModel:
        """The model that ``LATEST`` names, where that isn't the one that the job was started with.

        Raises:
          UsageError, VisionError: neither that nor the one of the start may serve.
        """
        start, pointed = time.monotonic(), self.pointed(self.latest())
        found = self._try(pointed, incumbent)
        if not isinstance(found, Failure):
            return ServingModel(found[0], _event(self._how, found[0], "", found[1], start))
        refusal = self._refusal(pointed, found.detail, incumbent.spec.model_digest, start)
        served = load_served(incumbent.path, incumbent.spec, self._settings)
        event = _event(self._how, served, "", "the job was started with it", start)
        serving = ServingModel(served, event)
        serving.note(refusal)
        return serving

    def _try(self, pointed: Pointed, incumbent: Incumbent) -> tuple[Served, str] | Failure:
        guarded = Guard(self._load, Stage.INFERENCE)
        return guarded(ImageRef(LATEST_FILE, pointed.path), pointed.path, incumbent)

    def _load(self, path: str, incumbent: Incumbent) -> tuple[Served, str]:
        settings, how = self._settings, self._how
        worse = worse_is_wanted(read_history(how.root), version_of(path))
        try:
            spec = describe_candidate(path, incumbent, settings, how)
            with self._at_work:
                drop = None if worse else how.max_drop
                return load_candidate(path, spec, incumbent, settings, max_drop=drop)
        except UsageError as error:
            raise VisionError(Reason.MODEL_ERROR, str(error)) from error
        finally:
            forget(path)

    def _refusal(self, pointed: Pointed, reason: str, previous: str, start: float) -> RolloutEvent:
        self._refused = pointed
        _LOG.warning("model %s was refused: %s", pointed.path, reason)
        return RolloutEvent(
            time_sec=time.time(),
            model=self._how.root,
            version=version_of(pointed.path),
            model_digest=said_digest(pointed.path),
            previous_digest=previous,
            outcome=REFUSED,
            reason=reason,
            load_sec=time.monotonic() - start,
        )


def _below(version: str, served: str) -> bool:
    """Whether what serves is that version: its folder, or the file in it."""
    return bool(version) and (served == version or served.startswith(version.rstrip("/") + "/"))


def said_digest(path: str) -> str:
    """The digest that a version's ``model_spec.json`` says is its own; empty where there is none to read."""
    read = Guard(storage.read_json, Stage.READ)(ImageRef(path, path), storage.join(path, SPEC_FILE))
    return (
        "" if isinstance(read, Failure) or not isinstance(read, dict) else str(read.get("model_digest", ""))
    )


def _facts(path: str) -> tuple[tuple[str, int, float], ...]:
    """Path, size and time of a file, or of all files of a folder."""
    if storage.is_remote(path):
        patterns = [path, storage.join(path, "**")]
        found = [item for result in storage.filesystems().match(patterns) for item in result.metadata_list]
        return tuple(sorted((f.path, f.size_in_bytes, f.last_updated_in_seconds) for f in found))
    names = storage.list_tree(path) if storage.is_folder(path) else [path] if storage.exists(path) else []
    stats = [(name, os.stat(name)) for name in names]
    return tuple((name, stat.st_size, stat.st_mtime) for name, stat in stats)
