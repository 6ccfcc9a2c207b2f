"""Figures as inline SVG: they follow the page's text colour (dark mode), keep text as text, and need no display and no pyplot state."""

import io
import re
import warnings
import zlib
from collections.abc import Sequence

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's palette without black and yellow: told apart with every common colour vision deficiency, on light and on dark.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_INK = "#010203"  # no figure uses it otherwise; replaced by currentColor
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rewardmesh",  # the same data gives the same file
    "text.parse_math": False,  # a signal may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


class Canvas:
    """One small figure: `with Canvas(title, ylabel) as axes: ...`, then `svg()`."""

    def __init__(self, title: str, ylabel: str, xlabel: str = "step") -> None:
        self._title = title
        self._style = mpl.rc_context(_STYLE)
        self._labels = xlabel, ylabel
        self._markup: Markup | None = None

    def __enter__(self) -> Axes:
        self._style.__enter__()
        self._figure = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = self._figure.add_subplot()
        axes.set_xlabel(self._labels[0])
        axes.set_ylabel(self._labels[1])
        return axes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._markup = self._render()
        finally:
            self._style.__exit__(None, None, None)

    def svg(self) -> Markup:
        """The figure as an <svg> element with a title for screen readers."""
        if self._markup is None:
            raise RuntimeError("the figure has not been drawn")
        return self._markup

    def _render(self) -> Markup:
        text = io.StringIO()
        with warnings.catch_warnings():
            # Only the layout's estimate of widths uses matplotlib's font; the browser brings the glyphs.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(self._figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
        prefix = f"plot{zlib.crc32(self._title.encode(errors='backslashreplace')):08x}-"  # ids must be unique over all figures of a page
        svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', lambda match: match[1] + prefix, svg)
        label = f'<svg role="img" aria-label="{escape(self._title)}" '
        return Markup(label + svg[len("<svg ") :])  # matplotlib escapes text


def legend(axes: Axes, handles: Sequence[Artist | tuple[Artist, ...]], labels: Sequence[str]) -> None:
    """A legend above the axes. matplotlib drops labels that begin with "_", a signal's name may."""
    axes.legend(handles, [f" {label}" for label in labels], loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
