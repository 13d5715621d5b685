"""From the blocks of a report to HTML, by the templates of this package."""

from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scoreflow.figures.plot import Plot


def render(template: str, **context: object) -> str:
    """A template of templates/, with everything that comes from outside escaped."""
    environment = Environment(
        loader=PackageLoader("scoreflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = _Drawer()
    environment.filters["path"] = quote
    environment.tests["plot"] = lambda item: isinstance(item, Plot)
    return environment.get_template(template).render(context)


class _Drawer:
    """Draws the plots of one page, whose ids must differ."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, plot: Plot) -> Markup:
        """The plot as an <svg> element, empty if it has no point to show."""
        from scoreflow.figures.svg import svg  # matplotlib: not for pages without a plot

        self._drawn += 1
        return Markup(svg(plot, f"plot {self._drawn}"))  # matplotlib escapes the text in it
