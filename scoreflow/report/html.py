"""From the blocks of a report to HTML, by the templates of this package."""

from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scoreflow.figures.plot import Plot

FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What matplotlib raises where the values of a plot are of a kind that it cannot draw."""


def render(template: str, damaged: list[str], **context: object) -> str:
    """A template of templates/, with everything that comes from outside escaped.

    Args:
        template: its file's name.
        damaged: lines about what cannot be shown, as `damaged` in the template; one is added for
            each plot that cannot be drawn.
        context: its other variables.
    """
    environment = Environment(
        loader=PackageLoader("scoreflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = _Drawer(damaged)
    environment.filters["path"] = quote
    environment.tests["plot"] = lambda item: isinstance(item, Plot)
    return environment.get_template(template).render(context, damaged=damaged)


class _Drawer:
    """Draws the plots of one page, whose ids must differ."""

    def __init__(self, damaged: list[str]) -> None:
        self._drawn = 0
        self._damaged = damaged

    def __call__(self, plot: Plot) -> Markup | None:
        """The plot as an <svg> element, empty if it has no point to show.

        None, with a line about it, if it cannot be drawn.
        """
        from scoreflow.figures.svg import svg  # matplotlib: not for pages without a plot

        self._drawn += 1
        try:
            return Markup(svg(plot, f"plot {self._drawn}"))  # matplotlib escapes the text in it
        except FAILURES as error:
            self._damaged.append(
                f"the plot {plot.title!r} cannot be drawn ({error}): make its result again, or "
                "remove the file"
            )
            return None
