"""From the blocks of a report to HTML, by the templates of this package."""

import base64
import hashlib
import os
from functools import cache
from urllib.parse import quote
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scoreflow.figures.bars import Bars
from scoreflow.figures.fields import Cloud, HeatMap
from scoreflow.figures.plot import Plot

FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What matplotlib raises where the values of a plot are of a kind that it cannot draw."""
DRAWN = {"svg", "g", "path", "text", "tspan", "use", "defs", "clipPath", "rect"}
"""Elements of a plot."""


def render(template: str, damaged: list[str], **context: object) -> str:
    """A template of templates/, with everything that comes from outside escaped.

    Args:
        template: its file's name.
        damaged: lines about what cannot be shown, as `damaged` in the template; one is added for
            each plot that cannot be drawn.
        context: its other variables.
    """
    script = _source("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            context,
            damaged=damaged,
            draw=_Drawer(damaged),
            script=Markup(script),
            script_hash=_hash_of(script),
        )
    )


@cache
def _environment() -> Environment:
    """The templates, compiled when they are first used."""
    environment = Environment(
        loader=PackageLoader("scoreflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["path"] = lambda path: quote(os.fsencode(path))  # it may be no UTF-8
    environment.tests["plot"] = lambda item: isinstance(item, Plot | Bars | HeatMap | Cloud)
    return environment


def _source(name: str) -> str:
    """A file of templates/, its lines ended as a browser has them, which hashes what it reads."""
    loader = _environment().loader
    assert loader is not None, "the environment is made with one"
    return loader.get_source(_environment(), name)[0].replace("\r\n", "\n")


def _hash_of(script: str) -> str:
    """What a Content-Security-Policy calls a script: with it no other one in the page runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _refuse_active(drawing: str) -> None:
    """Refuse an <svg> element that holds more than shapes and text.

    matplotlib escapes the text in a plot. Should it ever not, nothing of a result gets into the
    page as markup.

    Raises:
        ValueError: it has another element, a handler of events, or a link out of the page.
    """
    try:
        # no document from elsewhere: it has no entities, and is the output of our own drawing
        elements = list(ElementTree.fromstring(drawing).iter())
    except ElementTree.ParseError as error:
        raise ValueError(f"its SVG is not well formed: {error}") from error
    for element in elements:
        name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "comment"
        if name not in DRAWN:
            raise ValueError(f"its SVG has a <{name}>")
        for key, value in element.attrib.items():
            plain = key.rpartition("}")[2].lower()
            if plain.startswith("on") or (plain == "href" and not value.startswith("#")):
                raise ValueError(f"its SVG has {plain}={value[:40]!r}")


class _Drawer:
    """Draws the plots of one page, whose ids must differ."""

    def __init__(self, damaged: list[str]) -> None:
        self._drawn = 0
        self._damaged = damaged

    def __call__(self, plot: Plot | Bars | HeatMap | Cloud) -> Markup | None:
        """The plot as an <svg> element, empty if it has no point to show.

        None, with a line about it, if it cannot be drawn.
        """
        from scoreflow.figures.svg import svg  # matplotlib: not for pages without a plot

        self._drawn += 1
        try:
            drawing = svg(plot, f"plot {self._drawn}")
            if drawing:
                _refuse_active(drawing)
            return Markup(drawing)
        except FAILURES as error:
            self._damaged.append(
                f"the plot {plot.title!r} cannot be drawn ({error}): make its result again, or "
                "remove the file"
            )
            return None
