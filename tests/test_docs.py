"""README.md and docs/: Python blocks run, commands parse, links and files exist, numbers agree."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import scoreflow
from scoreflow.cli import command_line
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import evaluation_config, training_config

ROOT = Path(__file__).parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "run-0.1"
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PAGES = [*TOP, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
MOST_WORDS = 600
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
INDENTED = re.compile(r"^ {4}(.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?|\bTrue\b|\bFalse\b")
COMMAND = re.compile(r"(?:^|\s)(?:run\.py|scoreflow) (--.+)$")
TOGETHER = "(images and probes: # images are too few to tell the two apart)"
RUN_ELSEWHERE = ("docs/networks.md", "docs/flow_matching.md")
"""Their blocks are about other codebases' networks: `tests/test_networks_page.py` has these, and
`tests/test_flow_matching_page.py`."""
TO_BE_WRITTEN = ("NAME", "samplers/midpoint.py")
"""Parts of paths that stand for a file of the reader's own."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[tuple[str, str, int]]:
    """Language, content and first line of each fenced block."""
    text = text_of(page)
    return [
        (found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in BLOCK.finditer(text)
    ]


def code_of(page: str) -> list[str]:
    """Every line of code: fenced (but Python and output), indented and inline; continued ones."""
    text = text_of(page)
    outside = BLOCK.sub("", text)
    fenced = "\n".join(code for language, code, _ in blocks_of(page) if language in ("", "sh"))
    indented = "\n".join(INDENTED.findall(outside))
    joined = f"{fenced}\n{indented}".replace("\\\n", " ")
    return [*joined.splitlines(), *INLINE.findall(outside)]


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


# ---- Python blocks ------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a small trained run and a few images, to run the blocks in."""
    shutil.copytree(FIXTURE, tmp_path / "runs" / "digits-vp")
    (tmp_path / "my_images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "my_images" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def form(output: str) -> list[str]:
    """Lines of output with every number and truth value replaced: they depend on the run.

    So does whether the images suffice to tell two parts of an error budget apart, and an older run
    has no nodes.
    """
    told = [NUMBER.sub("#", line).rstrip() for line in output.strip().splitlines()]
    told = [line.replace("(probes and nodes)", "(probes)") for line in told]
    return [line.replace(TOGETHER, "(images) +- # (probes)") for line in told]


def has_python(page: str) -> bool:
    return any(language == "python" for language, _, _ in blocks_of(page))


@pytest.mark.parametrize("page", [p for p in PAGES if has_python(p) and p not in RUN_ELSEWHERE])
def test_the_python_blocks_run(page, workplace):
    """In their order, in one namespace; an output block has the form of what is printed."""
    namespace, printed, blocks = {"__name__": "docs"}, "", blocks_of(page)
    for language, code, line in blocks:
        assert language in ("python", "text", "sh"), f"{page}:{line} has a block of {language!r}"
        if language == "text":
            assert form(printed) == form(code), f"{page}:{line}"
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)
            printed = output.getvalue()
    assert {path.name for path in workplace.iterdir()} >= {"runs"}


def test_ten_lines_of_the_readme():
    (first, *_) = [code for language, code, _ in blocks_of("README.md") if language == "python"]
    assert len(first.splitlines()) == 10


# ---- commands, links, paths ---------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    """Every command line of ScoreFlow: its page, its arguments."""
    found = [(page, COMMAND.search(line)) for page in PAGES for line in code_of(page)]
    return [(page, match[1]) for page, match in found if match is not None]


@pytest.mark.parametrize(("page", "arguments"), commands())
def test_every_command_line_is_a_request(page, arguments):
    argv = ["run.py", *shlex.split(arguments, comments=True)]
    if argv[1] in ("--help", "--version"):
        return
    request = command_line.parse(argv)
    if request.mode == "train" or request.workdir is None:
        training_config(request)
        return
    if request.mode == "import":
        assert request.source is not None
        return
    saved = flatten(json.loads((FIXTURE / "config.json").read_text()))
    if any(name.startswith("data.") for name in request.overrides):  # of images, or imported
        saved |= {"model.shape": [1, 8, 8], "data.name": "images"}
    evaluation_config(request, saved, FIXTURE / "config.json")


def test_commands_are_found():
    pages = [page for page, _ in commands()]
    assert pages.count("README.md") >= 5
    for page in ("training", "samplers", "likelihood", "guidance", "editing", "comparison"):
        assert f"docs/{page}.md" in pages


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_and_benchmarks_exist(page):
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_of(page):
        for target in re.findall(r"^make ([\w./-]+)", line):
            assert target in targets, f"{page}: make {target}"
        for name in re.findall(r"python -m (benchmarks[\w.]*)", line):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(BLOCK.sub("", text_of(page))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page}: {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_that_are_named_exist(page):
    """All but the names of old in the changelog."""
    text = text_of(page)
    named = re.findall(r"results/cpu/[\w-]+\.\w+", text)
    rooms = r"(?:sde|samplers|scoreflow|configs|tests|benchmarks|docs)/[\w./-]*"
    named += [code for code in INLINE.findall(text) if re.fullmatch(rooms, code)]
    for path in named:
        assert any(part in path for part in TO_BE_WRITTEN) or (ROOT / path).exists(), path


def test_every_page_is_in_the_index():
    links = LINK.findall(text_of("docs/README.md"))
    for page in (ROOT / "docs").glob("*"):
        if page.suffix in (".md", ".ipynb") and page.name != "README.md":
            assert page.name in links, page.name


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_opens_with_a_command_or_a_picture(page):
    _, first, *_ = text_of(page).split("\n\n")
    assert first.startswith(("    ", "!["))


# ---- the README's numbers -----------------------------------------------------------------------


def read(name: str) -> dict:
    return json.loads((ROOT / "results" / "cpu" / f"{name}.json").read_text())


def row_of(result: dict, **wanted) -> dict:
    (found,) = (row for row in result["rows"] if wanted.items() <= row.items())
    return found


def stated() -> dict[str, str]:
    """What the README says of each file, made from the file."""
    likelihood, compared = read("digits-likelihood"), read("digits-compare")
    budget = likelihood["error_budget"]
    named = {"images": "images", "probes": budget["random"], "solver": "solver"}
    parts = [f"{budget[key]:.3f} ({name})" for key, name in named.items()]
    bound = row_of(read("digits-ledger"), name="discrete bound, optimal variance")
    unipc, real = row_of(compared, case="unipc-10"), compared["test_data"]
    step = row_of(read("training"), who="ours", variant="channels_last")
    ddim = row_of(read("overhead"), images=64, sampler="ddim")
    found = read("likelihood-benchmark")["equal_error"]
    image, mean = found["image"]["0.05"], found["mean"]
    packed = max(read("compression")["rows"], key=lambda row: (row["num_images"], row["steps"]))
    other = {row["name"]: row["bytes"] for row in packed["baselines"]}
    distance = "{feature_distance:.2f} ± {feature_distance_error:.2f}"
    return {
        "digits-likelihood": " ± ".join([f"{likelihood['value']:.3f}", *parts]),
        "digits-ledger": f"{bound['minus_first']:.3f} ± {bound['minus_first_error']:.3f}",
        "digits-compare": f"{distance.format(**unipc)} feature distance, UniPC, 10 evaluations "
        f"(test data: {distance.format(**real)})",
        "training": f"{step['ratio']:.2f} times",
        "overhead": f"{ddim['us']:.0f} us ({ddim['us_low']:.0f}-{ddim['us_high']:.0f}) a DDIM "
        f"step without the network (diffusers: {ddim['against_us']:.0f})",
        "compression": f"{packed['bytes']['file']:,} bytes of {packed['num_images']} MNIST "
        f"images, lossless (stacked PNG {other['PNG, stacked']:,}, JPEG XL "
        f"{other['JPEG XL, stacked']:,})",
        "likelihood-benchmark": f"{image['dopri5']['over_nodes']:.1f} times faster likelihood "
        "than with fixed probes at 0.05 bits/dim an image, "
        f"{image['usual']['over_nodes']:.0f} than score_sde's; "
        f"{mean['dopri5']['over_nodes']:.1f} for a mean to 0.002",
    }


def test_the_six_numbers_are_those_of_their_files():
    lines = text_of("README.md").splitlines()
    rows = [line for line in lines if line.startswith("|") and "](results/cpu/" in line]
    assert len(rows) == 6
    for row in rows:
        (name,) = re.findall(r"results/cpu/([\w-]+)\.json", row)
        assert row.startswith(f"| {stated()[name]}"), name
    seconds = read("digits-likelihood")["seconds"]
    assert f"{seconds:.0f} s: {read('digits-likelihood')['value']:.3f}" in text_of("README.md")


def test_the_readme_is_short():
    words = [word for word in text_of("README.md").split() if re.search(r"[A-Za-z0-9]", word)]
    assert len(words) <= MOST_WORDS, len(words)


# ---- licence, citation, changelog, hooks --------------------------------------------------------


def test_licence_citation_and_changelog_agree():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == scoreflow.__version__
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in text_of("LICENSE")
    first = re.search(r"^## \[(.+)\] - (\S+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert first is not None
    assert first[1] == scoreflow.__version__
    assert first[2] == str(citation["date-released"])


def test_hooks_and_workflow_run_what_make_does():
    makefile = (ROOT / "Makefile").read_text()
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    for hook in repository["hooks"]:
        assert f"\t{hook['entry'].replace('.venv/bin', '$(VENV)')}\n" in makefile
    steps = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["test"]["steps"]
    assert steps[-1]["run"] == "bash .ci/run"


def test_mnist_is_as_its_file_says():
    found = read("mnist-likelihood")["likelihood"]
    budget = found["error_budget"]
    parts = (found["value"], budget["images"], budget["probes"], budget["solver"])
    text = "{:.4f} ± {:.4f} (images) ± {:.4f} (probes and nodes) ± {:.4f} (solver)".format(*parts)
    assert text in " ".join(text_of("docs/likelihood.md").split())
    assert found["num_images"] == 10_000
