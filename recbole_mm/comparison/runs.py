"""Does the searches and runs of a comparison, or reads those that were done before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from recbole_mm.comparison.protocol import Protocol
from recbole_mm.comparison.tasks import run_task
from recbole_mm.comparison.workers import ATTEMPTS, work_off
from recbole_mm.experiment.ablation import CONTENT_MODEL, only_modality, without_modality
from recbole_mm.experiment.children import Children, error_text, is_of_machine, run_in_child
from recbole_mm.experiment.claims import Claims
from recbole_mm.experiment.job import Job, versions
from recbole_mm.experiment.remaining import duration
from recbole_mm.experiment.split import why_other_split
from recbole_mm.experiment.store import Store, digest
from recbole_mm.host.registry import registered_models
from recbole_mm.report.table import Row
from recbole_mm.search.search import SearchResult, free_space, make_plan, search

__all__ = ["Runs"]

T = TypeVar("T")


@dataclass
class Runs:
    """The runs of a comparison, and what came out of them so far.

    Attributes:
        names: The models, in the order of the table.
        protocol: How they are run.
        store: Where the results are.
        seeds: The seeds.
        split_seed: Seed of a random split; ``None`` for each run's own seed.
        ablate: Whether to test and retrain multimodal models without their modalities.
        jobs: Processes at a time.
        in_process: Whether to use this process instead.
        keep_checkpoints: Whether to keep the trained models.
        say: Takes a line for the user.
        claims: Where runs are claimed that other processes may do, too; ``None`` where this one does all.
        after_run: Called after every run.
        found: Model to the result of its search.
        rows: Model and variant to the row of the table.
        splits: Seed to the split that its runs share.
    """

    names: list[str]
    protocol: Protocol
    store: Store
    seeds: list[int]
    split_seed: int | None
    ablate: bool
    jobs: int
    in_process: bool
    keep_checkpoints: bool
    say: Callable[[str], None]
    claims: Claims | None = None
    after_run: Callable[[], object] = lambda: None
    found: dict[str, SearchResult] = field(default_factory=dict)
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    splits: dict[int, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _children: Children = field(default_factory=Children)

    def search_all(self, trials: int, storage: str | None, spaces: Mapping[str, Any]) -> None:
        """Search every model with the same budget; one that cannot be searched fails, the others go on.

        Args:
            trials: Trials of each model.
            storage: Database of the studies; ``None`` for a file in the store.
            spaces: Search spaces of single models.
        """

        def one(name: str) -> None:
            settings = self.protocol.settings[name]
            data_seed = self.seeds[0] if self.split_seed is None else self.split_seed
            job = Job(name, self.protocol.dataset, settings, self.seeds[0], data_seed, self.protocol.mask_seen)
            job = replace(job, data=self.protocol.data[name])
            try:
                space = free_space(name, spaces.get(name), settings)
                self._tell(f"{name}: searching {', '.join(space) or 'nothing'}, {trials} trials")
                plan = make_plan(job, self.protocol.data[name], space, trials, storage)
                say = partial(self._tell_about, name)
                found = search(plan, self.store, self.in_process, say, self._children)
            except Exception as error:
                self.protocol.failures[name] = f"search: {error_text(error)}"
                self._tell(f"{name}: failed: {self.protocol.failures[name]}")
                return
            self.found[name] = found
            self.protocol.settings[name] = {**settings, **found.params}
            if found.value is not None:
                best = f"valid {found.metric} {found.value} with {found.params}"
                self._tell(f"{name}: best of {len(found.trials)} trials: {best}")

        self._each(one, list(self.protocol.settings))

    def run_all(self) -> None:
        """Do every run that is not done yet."""
        models = [name for name in self.names if name not in self.protocol.failures]
        for name in self.names:
            row = self._row(name)
            row.params = self.found[name].params if name in self.found else {}
            if name in self.protocol.failures:
                row.failures.append(self.protocol.failures[name])
        self._run([(name, "", seed) for seed in self.seeds for name in models])
        if self.ablate:
            variants = [
                (name, f"{'only' if name == CONTENT_MODEL else 'without'} {modality}")
                for name in models
                for modality in self._modalities(name)
                if len(self._modalities(name)) > 1
            ]
            self._run([(*variant, seed) for seed in self.seeds for variant in variants])

    def ordered(self) -> list[Row]:
        """The rows of the table: each model, then its variants."""
        rows = [row for name in self.names for key, row in self.rows.items() if key[0] == name]
        return [row for row in rows if row.records or row.failures]

    def _run(self, order: list[tuple[str, str, int]]) -> None:
        done, total = 0, len(order)
        if self.claims is not None:
            claims = self.claims
            self._each(lambda _: work_off(order, claims, self._find, self._do, self._tell), range(self.jobs))
        # All that is there is read before anything runs: what is damaged is named now.
        to_do = {entry for entry in order if not self._is_done(*entry)}
        before = [entry for entry in order if entry not in to_do]
        if len(to_do) < len(order):
            self._tell(f"{len(order)} runs, {len(order) - len(to_do)} of them done before")

        def one(entry: tuple[str, str, int]) -> None:
            nonlocal done
            text = self._one(*entry)
            with self._lock:
                done += 1
                to_do.discard(entry)
                self.say(f"[{done}/{total}] {text}{self._left(to_do)}")
                if done >= len(before):  # a table of some of the runs would take the place of one of all of them
                    self.after_run()

        for entry in before:
            one(entry)
        order = [entry for entry in order if entry in to_do]

        if self.jobs > 1:
            # The first run of every seed sets the split that the others must have, so these runs are done before them.
            first = list({entry[2]: entry for entry in reversed(order)}.values())
            self._each(one, first)
            order = [*first, *(entry for entry in order if entry not in first)]
            self._each(one, order[len(first) :])
        else:
            self._each(one, order)

    def _each(self, do: Callable[[T], None], entries: Iterable[T]) -> None:
        if self.jobs == 1 or self.in_process:
            for entry in entries:
                do(entry)
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                list(pool.map(do, entries))
            except BaseException:  # Ctrl-C: the pool would wait for all that is running and all that is to come
                self._children.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, name: str, variant: str, seed: int) -> str:
        """Do one run, or read it, and return what to say about it."""
        label = f"{name} ({variant}), seed {seed}" if variant else f"{name}, seed {seed}"
        with self._lock:
            row = self._row(name, variant)
        run, job, record = self._find(name, variant, seed)
        read = record is not None
        if not read:
            record = self._do(run, job)
        finished = record is not None and record["status"] == "finished"
        users = self.store.users(run) if finished else {}
        with self._lock:
            if record is None or not finished:
                reason = str((record or {}).get("reason", "it left no record"))
            else:
                reason = why_other_split(self.splits.setdefault(seed, dict(record["split"])), record["split"])
            if record is None or reason:
                row.failures.append(reason)
                return f"{label}: failed: {reason}"
            row.records[seed] = record
            row.users[seed] = users
            if not variant and self.ablate:
                self._add_permuted(name, seed, record, users)
        metric, value = next(iter(record["test"].items()))
        how = "done before" if read else f"{record['time']['total']:.0f} s"
        if self.keep_checkpoints and not record["checkpoint"]:
            how += f", without a checkpoint: delete {self.store.run_folder(run)} to train it again"
        return f"{label}: test {metric} {value} ({how})"

    def _find(self, name: str, variant: str, seed: int) -> tuple[str, Job, dict[str, Any] | None]:
        """Name and job of a run, and its record where it is finished."""
        with self._lock:
            job = self._job(name, variant, seed)
        stem = f"{name}{'-' + variant.replace(' ', '-') if variant else ''}-{seed}"
        run, permuted = (f"{stem}-{self._digest(entry)}" for entry in (job, replace(job, permute=True)))
        # An ablation comes after the test and changes nothing in it.
        for stored in (run, permuted):
            record = self.store.load(stored)
            if record is not None and (record.get("status") == "finished" or self._is_given_up(record)):
                return stored, job, record
        return run, job, None

    def _is_given_up(self, record: Mapping[str, Any]) -> bool:
        """Whether a failed run is left as it is: by workers, of which each would try it again otherwise."""
        return self.claims is not None and (not record.get("goes_on") or record.get("attempts", 1) >= ATTEMPTS)

    def _is_done(self, name: str, variant: str, seed: int) -> bool:
        run, _, record = self._find(name, variant, seed)
        if record is not None and record["status"] == "finished":
            self.store.users(run)
        return record is not None

    def _left(self, to_do: Iterable[tuple[str, str, int]]) -> str:
        """An estimate for runs that are not done, from the mean of the finished ones of the model, else of all."""
        seconds: dict[str, list[float]] = {}
        for (name, _), row in self.rows.items():
            times = (record["time"]["total"] for record in row.records.values() if "time" in record)
            seconds.setdefault(name, []).extend(times)
        every = [value for values in seconds.values() for value in values]
        if not every:
            return ""
        left = sum(sum(times) / len(times) for name, _, _ in to_do for times in [seconds.get(name) or every])
        return f", about {duration(left / (1 if self.in_process else self.jobs))} left" if left else ""

    def _do(self, run: str, job: Job, look: Callable[[], object] | None = None) -> dict[str, Any] | None:
        if self.claims is not None:
            self.store.check_shared()
        attempts = int((self.store.load(run) or {}).get("attempts", 0)) + 1
        folder = self.store.start(run)
        task = {
            "job": asdict(job),
            "store": str(self.store.folder),
            "name": run,
            "own_process": not self.in_process,
            "keep_checkpoints": self.keep_checkpoints,
        }
        try:
            if self.in_process:
                run_task(task)
            else:
                run_in_child(run_task, task, folder, [job.model], look, children=self._children)
        except Exception as error:
            # The record of a failure is for the reader; only finished runs are taken over by the next start.
            failure = {"status": "failed", "reason": error_text(error), "job": asdict(job), "versions": versions()}
            self.store.save(run, {**failure, "goes_on": is_of_machine(error), "attempts": attempts})
        return self.store.load(run)

    def _job(self, name: str, variant: str, seed: int) -> Job:
        settings = self.protocol.settings[name]
        if variant:
            kind, _, modality = variant.partition(" ")
            change = only_modality if kind == "only" else without_modality
            settings = change(settings, modality, self._modalities(name))
        data_seed = seed if self.split_seed is None else self.split_seed
        known = self.splits.get(seed, {})
        job = Job(name, self.protocol.dataset, settings, seed, data_seed, self.protocol.mask_seen)
        permute = self.ablate and not variant and name in registered_models()
        known = {"split": known.get("hash"), "candidates": known.get("candidates"), "data": self.protocol.data[name]}
        return replace(job, permute=permute, **known)

    def _digest(self, job: Job) -> str:
        return digest(job.identity(self.protocol.data[job.model]))

    def _add_permuted(self, name: str, seed: int, record: Mapping[str, Any], users: Mapping[str, Any]) -> None:
        for modality, test in record["permuted"].items():
            row = self._row(name, f"{modality} permuted")
            prefix = f"permuted/{modality}/"
            row.records[seed] = {"test": test}
            own = {key[len(prefix) :]: value for key, value in users.items() if key.startswith(prefix)}
            row.users[seed] = {"user": users["user"], **own} if own else {}

    def _row(self, name: str, variant: str = "") -> Row:
        return self.rows.setdefault((name, variant), Row(name, variant))

    def _modalities(self, name: str) -> list[str]:
        if name not in registered_models():
            return []
        records = self._row(name).records.values()
        return next((list(record["modalities"]) for record in records), [])

    def _tell_about(self, name: str, text: str) -> None:
        self._tell(f"{name}: {text}")

    def _tell(self, text: str) -> None:
        with self._lock:
            self.say(text)
