"""From a matplotlib figure to SVG that stands in a page: coloured by the page's CSS, readable by screen readers, the same every time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from prunecore.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what plots draw with, and the CSS variable that takes its place; colours that nothing else would have
INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
OURS, RANDOM, SOFT, MARK = "#010207", "#010208", "#010209", "#01020a"
_VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", OURS: "ours", RANDOM: "random", SOFT: "soft", MARK: "mark"
}  # fmt: skip
WIDE, NARROW = 720, 340  # px; the template shows one of them
_SIZE = 12  # of text, px

Draw = Callable[["Figure", bool], None]


def require() -> None:
    """ConfigError unless the libraries that make a report are installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name or 'a library'} is missing: pip install 'prunecore[report]'") from error


def figure(name: str, title: str, description: str, draw: Draw, *, heights: tuple[int, int]) -> str:
    """`<svg>` twice, for wide and for narrow pages: the page's CSS shows one.

    name: of its ids; unique in the page. draw(figure, narrow) fills a figure of WIDE or NARROW px and of that height.
    """
    parts = []
    for narrow, height in zip((False, True), heights, strict=True):
        kind = "narrow" if narrow else "wide"
        size = (NARROW if narrow else WIDE, height)
        svg = _rendered(f"{name}-{kind}", size, lambda made, narrow=narrow: draw(made, narrow))  # type: ignore[misc]
        parts.append(_in_page(svg, f"{name}-{kind}", kind, (title, description)))
    return "\n".join(parts)


def _rendered(salt: str, size: tuple[int, int], draw: Callable[[Figure], None]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = io.StringIO()
    settings: Any = _settings(salt)  # typed by matplotlib as a dictionary of all its names
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # the browser has the letters that our fonts lack
        made = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        FigureCanvasSVG(made)
        draw(made)
        made.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


def _settings(salt: str) -> Mapping[str, Any]:
    """The same for every user: a matplotlibrc of theirs makes no difference where it matters."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "svg.image_inline": True,
        "text.parse_math": False,  # names of modules may hold dollars
        "text.usetex": False,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": _SIZE,
        "axes.unicode_minus": True,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.titlesize": _SIZE,
        "axes.labelsize": _SIZE,
        "xtick.labelsize": _SIZE,
        "ytick.labelsize": _SIZE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "text.color": INK,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "path.simplify": False,
    }


def _in_page(svg: str, name: str, kind: str, words: tuple[str, str]) -> str:
    """The `<svg>` element alone, its ids its own, its colours variables of the page, with a title and a description."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(
        r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL
    )  # it would hold for the whole page
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    title, description = (str(escape(text)) for text in words)
    width = box[1].split()[2]
    return (
        f'<svg class="plot {kind}" viewBox="{box[1]}" width="{width}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">\n'
        f'<title id="{name}-title">{title}</title>\n<desc id="{name}-desc">{description}</desc>{body.rstrip()}'
    )
