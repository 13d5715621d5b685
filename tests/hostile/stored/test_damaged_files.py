"""Every file of a run damaged in every way: one line or the right answer, no traceback."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.errors import RequestError, RunError
from scoreflow.report.page import write_report
from scoreflow.run_table import table
from scoreflow.storage.run_folder import RunDir
from tests.hostile.stored.damage import FATAL, WHOLE, Hurt, of_file

OLD = Path(__file__).parents[2] / "fixtures" / "run-0.1"
SHOWN = ("equivalence", "likelihood-ledger", "inpaint", "compare")
"""Results of the old run that the small one would take long to make."""
READS: dict[str, tuple[str, ...]] = {
    "config.json": ("sample", "likelihood", "train"),
    "data.json": ("sample", "likelihood"),
    "metrics.jsonl": ("sample", "train"),
    "checkpoints/00000060.pt": ("sample", "train"),
    "checkpoints/00000060.pt.sha256": ("sample",),
    "results/likelihood.json": ("likelihood",),
    "results/likelihood.jsonl": ("likelihood",),
    "results/compare.json": ("compare",),
    "results/compare.jsonl": ("compare",),
    "results/moments.json": ("optimal",),
    "results/samples-ddim.json": ("sample",),
    "samples/00000060-ddim.json": ("sample",),
    "samples/00000060-ddim/settings.json": ("saved",),
    "samples/00000060-ddim/progress-png.jsonl": ("saved",),
    "samples/00000060-ddim/00000003.png": ("saved",),
    "samples/00000060-ddim/samples.npz": ("saved-npz",),
    "samples/00000060-ddim/samples.pt": ("saved-pt",),
    "classifier.pt": ("compare",),
    "classifier.pt.sha256": ("compare",),
}
"""The modes that read a file, besides the report and the table of runs."""
COMPARE = ("--samplers=ddim,dpm", *(f"--config.compare.{k}" for k in ("nfe=(2,4)", "guidance=()")))
MODES: dict[str, tuple[str, ...]] = {
    "train": ("--mode=train",),
    "sample": ("--mode=sample", "--sampler=ddim"),
    "saved": ("--mode=sample", "--sampler=ddim", "--config.sampling.save=png"),
    "saved-npz": ("--mode=sample", "--sampler=ddim", "--config.sampling.save=npz"),
    "saved-pt": ("--mode=sample", "--sampler=ddim", "--config.sampling.save=pt"),
    "optimal": ("--mode=sample", "--sampler=ancestral", "--config.sampling.variance=optimal"),
    "likelihood": ("--mode=likelihood",),
    "compare": ("--mode=compare", *COMPARE, "--config.compare.num_images=12"),
}
ANSWERS = {
    "train": "checkpoints/00000060.pt",
    "sample": "samples/*-ddim*.png",
    "saved": "samples/*-ddim/*.png",
    "saved-npz": "samples/*-ddim/samples.npz",
    "saved-pt": "samples/*-ddim/samples.pt",
    "optimal": "samples/*-ancestral*.png",
    "likelihood": "results/likelihood*.json",
    "compare": "samples/*-compare-*.png",
}
"""What a mode makes that depends on nothing but its question."""


class Undrawn:
    """Plots as empty elements: that matplotlib draws each is tested elsewhere, and takes long."""

    @staticmethod
    def svg(plot: Any, salt: str = "") -> str:
        """As `figures.svg.svg`."""
        from scoreflow.figures.svg import _points

        return "<svg></svg>" if any(_points(each, plot) for each in plot.series) else ""


def ask(folder: Path, mode: str) -> int:
    """Run a mode on a folder."""
    return main(["run.py", *MODES[mode], "--device=cpu", f"--workdir={folder}"])


def small_table(patch: pytest.MonkeyPatch) -> None:
    """Have the table of errors that the optimal variance needs be measured in no time."""
    patch.setattr("scoreflow.generation.error_table.KNOTS", 4)
    patch.setattr("scoreflow.generation.error_table.IMAGES", 8)


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of file."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run"))
    with pytest.MonkeyPatch.context() as few:
        small_table(few)
        assert ask(folder, "optimal") == 0
    common = ("--device=cpu", f"--workdir={folder}")
    classifier = ("--mode=classifier", "--config.classifier.num_steps=5")
    assert main(["run.py", *classifier, *common]) == 0
    for mode in ("sample", "saved", "saved-npz", "saved-pt", "compare"):
        assert ask(folder, mode) == 0
    vary = ("--config.sampling.task=vary", "--config.control.image=test:0")
    assert main(["run.py", "--mode=sample", *vary, *common]) == 0
    for name in SHOWN:
        if not (folder / "results" / f"{name}.json").exists():
            shutil.copy(OLD / "results" / f"{name}.json", folder / "results")
    return folder


def answers(folder: Path, mode: str) -> set[Any]:
    """What a folder holds as the answer to a mode: bytes of files, or the values in them."""
    found: set[Any] = set()
    for path in folder.glob(ANSWERS[mode]):
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError, EOFError):
            found.add(_answer(path))
    return found


def _within(right: set[Any], found: set[Any]) -> bool:
    """Whether each right answer was found; images measured in other batches are roundings off."""
    return all(any(_same(own, each) for each in found) for own in right)


def _same(own: object, other: object) -> bool:
    if isinstance(own, tuple) and isinstance(own[0], float) and isinstance(other, tuple):
        return len(own) == len(other) and bool(other == pytest.approx(own, 1e-5))
    return own == other


def _answer(path: Path) -> object:
    if path.suffix == ".json":
        value = json.loads(path.read_bytes())
        return value.get("value"), value.get("standard_error"), value.get("num_images")
    if path.suffix == ".pt":  # its values, not how they are packed
        return _plain(torch.load(path, map_location="cpu", weights_only=True))
    return path.read_bytes()


def _plain(value: Any) -> object:
    """Nested values that compare by their content, bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return tuple((key, _plain(each)) for key, each in value.items())
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


class Trial:
    """A damaged file and what is asked of its folder.

    Args:
        whole: the folder before.
        scratch: an empty place.
        output: what was printed since it was called last, stdout and stderr.
    """

    def __init__(self, whole: Path, scratch: Path, output: Callable[[], tuple[str, str]]) -> None:
        self.whole, self.scratch, self.output = whole, scratch, output
        self.count = 0
        self.wrong: list[str] = []
        self._shown = self._page(whole)

    def _page(self, folder: Path) -> str:
        run = Path(shutil.copytree(folder, self.scratch / "page" / "run"))
        try:
            return write_report(RunDir.open(run)).read_text()
        finally:
            shutil.rmtree(self.scratch / "page")

    def report(self, name: str, what: str, hurt: Hurt) -> None:
        """The page and the table of runs: no traceback, and a line for what is not as before."""
        run = Path(shutil.copytree(self.whole, self.scratch / "hurt" / "run"))
        hurt(run / name)
        self.count += 1
        try:
            found = table([run])
            page = write_report(RunDir.open(run)).read_text()
        except (RequestError, RunError) as error:
            if "\n" in str(error) or name not in str(error):
                self.wrong.append(f"{name}, {what}: the message is {error}")
        except Exception as error:
            self.wrong.append(f"{name}, {what}: report: {type(error).__name__}: {error}")
        else:
            told = [*found.remarks, *re.findall('<p class="damaged">(.*?)</p>', page, re.S)]
            result = name.startswith("results/") and name.endswith(".json")
            if what in FATAL and result and not any(name in line for line in told):
                self.wrong.append(f"{name}, {what}: nothing is said")
            str(found), found.as_csv(), found.as_html(), found.as_json()
        finally:
            shutil.rmtree(self.scratch / "hurt")

    def mode(self, name: str, what: str, hurt: Hurt, mode: str) -> None:
        """A mode: an exit status and a line, or the answer that the whole folder gives."""
        run = Path(shutil.copytree(self.whole, self.scratch / "hurt" / "run"))
        right = answers(run, mode)
        hurt(run / name)
        self.count += 1
        self.output()
        where = f"{name}, {what}: {mode}"
        try:
            status = ask(run, mode)
        except Exception as error:
            self.wrong.append(f"{where}: {type(error).__name__}: {error}"[:300])
            return
        finally:
            out, err = self.output()
            found = answers(run, mode) if (run / name).parent.exists() else set()
            shutil.rmtree(self.scratch / "hurt")
        if "Traceback" in err:
            self.wrong.append(f"{where}: a traceback is printed")
        elif status not in (0, 1, 2):
            self.wrong.append(f"{where}: exit status {status}")
        elif status and not err.strip():
            self.wrong.append(f"{where}: nothing is said")
        elif not (status or _within(right, found) or Path(name).name in out + err):
            self.wrong.append(f"{where}: another answer, and nothing is said")


@pytest.fixture
def trial(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Trial:
    """A trial whose pages have no plots drawn."""
    monkeypatch.setattr("scoreflow.figures.svg.svg", Undrawn.svg)
    small_table(monkeypatch)
    return Trial(whole, tmp_path, lambda: tuple(capsys.readouterr()))


def shown(whole: Path) -> Iterator[str]:
    """The files that the report reads, from config.json on."""
    for pattern in ("*.json", "metrics.jsonl", "results/*.json", "samples/*.json"):
        for path in sorted(whole.glob(pattern)):
            yield path.relative_to(whole).as_posix()
    yield from ("samples/00000060-ddim.png", "samples/00000060-compare-ddim-2.png")


def some(path: Path, most: int, first: int) -> list[tuple[str, Hurt]]:
    """At most so many of a file's damages, and all of those of the whole file."""
    damages = list(of_file(path))
    of_values = damages[len(WHOLE) :]
    step = max(1, -(-len(of_values) // max(1, most - len(WHOLE))))
    return [*damages[: len(WHOLE)], *of_values[first % step :: step]]


def test_some_damaged_files(trial: Trial, whole: Path):
    for k, name in enumerate(shown(whole)):
        damages = some(whole / name, 40, k)
        what, hurt = damages[7 * k % len(damages)]
        trial.report(name, what, hurt)
    for k, name in enumerate(list(READS)[:6]):
        damages = some(whole / name, 40, k)
        what, hurt = damages[5 * k % len(damages)]
        trial.mode(name, what, hurt, READS[name][0])
    assert not trial.wrong, "\n".join(trial.wrong)
    assert trial.count > 25


@pytest.mark.slow
def test_all_damaged_files(trial: Trial, whole: Path, capsys: pytest.CaptureFixture[str]):
    for k, name in enumerate(shown(whole)):
        for what, hurt in some(whole / name, 50, k):
            trial.report(name, what, hurt)
    for k, (name, modes) in enumerate(READS.items()):
        for j, (what, hurt) in enumerate(some(whole / name, 24, k)):
            trial.mode(name, what, hurt, modes[j % len(modes)])
    survived = trial.count - len(trial.wrong)
    with capsys.disabled():
        print(f"\n{survived} of {trial.count} damaged files: one line or a right answer")
    assert not trial.wrong, "\n".join(trial.wrong)
    assert trial.count >= 322
