"""Generate docs/import_options.md, the questions of the readers and the published networks.

python -m scoreflow.interop.docs > docs/import_options.md
"""

from collections.abc import Iterable, Mapping

from scoreflow.interop.diffusers import reader as diffusers
from scoreflow.interop.formats import RECIPES
from scoreflow.interop.openai import reader as openai
from scoreflow.interop.options import Asked
from scoreflow.interop.score_sde import recipes as score_sde

INTRODUCTION = """# Import options

    python run.py --mode import --from checkpoint_24.pth --recipe vp/ddpm/cifar10 --workdir runs/a
    python run.py --mode import --from ema.pt --set size=32,heads=4,steps=4000 --workdir runs/b

`--set` answers what a file does not say; a recipe has the answers of a published network, which
`--set` may change.
The formats `edm` and `scoreflow` ask nothing. See [networks of other codebases](interop.md).

This page is generated: `make docs`.
"""
FORMATS = {
    "diffusers": diffusers.ASKED,
    "improved_diffusion, guided_diffusion": openai.ASKED,
    "score_sde": score_sde.ASKED,
}


def page() -> str:
    """The whole page, Markdown."""
    parts = [INTRODUCTION]
    for name, asked in FORMATS.items():
        parts.append(f"## `{name.replace(', ', '`, `')}`\n\n{_table(_HEADER, map(_row, asked))}")
    rows = ((f"`{name}`", each.format, _said(each.options)) for name, each in RECIPES.items())
    parts.append(f"## Recipes\n\n{_table(('recipe', 'format', 'answers'), rows)}")
    return "\n".join(parts)


_HEADER = ("option", "default", "values", "meaning")


def _row(asked: Asked) -> tuple[str, ...]:
    default = "asked" if asked.default is None else f"`{asked.default}`"
    values = ", ".join(f"`{each}`" for each in asked.choices) or asked.kind.__name__
    return f"`{asked.name}`", default, values, asked.meaning


def _said(options: Mapping[str, object]) -> str:
    return "`" + ",".join(f"{name}={value}" for name, value in options.items()) + "`"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
