"""HTML pages as their readers have them: by a screen reader, on a phone, in dark mode, and in a browser at all."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NARROWEST = 500  # window of Chromium, in pixels; a frame may be narrower
TEXT_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, level AA
VIOLATIONS = """
axe.run({resultTypes: ["violations"]}).then((result) => done(
  result.violations.map((rule) => [rule.id, rule.help, ...rule.nodes.map((node) => node.html.slice(0, 200))])
));
"""


class Outline(HTMLParser):
    """What a screen reader goes by: elements with their attributes, and the text of titles and headings."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}  # by the number of the element
        self._open: int | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("title", "h1", "h2", "h3", "th", "summary", "a", "button"):
            self._open = len(self.elements) - 1
            self.texts.setdefault(self._open, "")

    def handle_data(self, data):
        if self._open is not None and data.strip():
            self.texts[self._open] += data


def faults(text: str) -> list[str]:
    """Returns what is wrong with a page for a screen reader, and with the contrast of its colours in both themes."""
    outline = Outline(text)
    found = []
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    found += [f"the id {name} stands twice" for name in set(ids) if ids.count(name) > 1]
    found += [f"h{low} follows h{high}" for high, low in pairwise(levels) if low > high + 1]
    if levels[:1] != [1] or levels.count(1) != 1:
        found.append("the first heading, and no other, is h1")
    if [tag for tag, _ in outline.elements].count("main") != 1:
        found.append("there is one main")
    for number, (tag, attributes) in enumerate(outline.elements):
        name = attributes.get("aria-label") or outline.texts.get(number, "").strip()
        described = attributes.get("aria-labelledby")
        if described and described not in ids:
            found.append(f"no element is called {described}")
        if tag == "html" and not attributes.get("lang"):
            found.append("the language is not said")
        if tag == "img" and not attributes.get("alt"):
            found.append("a picture has no alternative text")
        if tag == "th" and attributes.get("scope") not in ("col", "row"):
            found.append(f"the header {name} has no scope")
        if number in outline.texts and tag not in ("th",) and not name:
            found.append(f"a {tag} is empty")
        if attributes.get("role") == "region" and not (described or name):
            found.append("a region has no name")
        if "scroll" in (attributes.get("class") or "").split() and attributes.get("tabindex") != "0":
            found.append("what scrolls cannot be reached with the keyboard")
    return found + faint_colours(text)


def faint_colours(text: str) -> list[str]:
    """Returns the pairs of text and background colours, in the light and in the dark theme, that are too similar."""
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    ]
    themes = [theme for theme in themes if len(theme) > 5]  # of the screen; on paper all is black
    assert len(themes) == 2
    return [
        f"{front} on {back}: {contrast(theme[front], theme[back]):.2f}"
        for theme in themes
        for front, backs in {
            "ink": ("paper", "stripe", "warning"),
            "soft": ("paper", "stripe"),
            "link": ("paper",),
        }.items()
        for back in backs
        if contrast(theme[front], theme[back]) < TEXT_CONTRAST
    ]


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def in_a_browser(page: Path, folder: Path, script: str, width: int = 1200, dark: bool = False):
    """Returns what a script in the page hands to `done`; the test is skipped where there is no browser.

    Args:
        page: an HTML file that needs no other.
        folder: for files of the browser.
        script: JavaScript, run when the page has been loaded.
        width: of the window, in pixels.
        dark: whether the reader prefers dark colours.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")
    done = (
        'const done = (value) => { const out = top.document.createElement("pre"); out.id = "probe";'
        " out.textContent = JSON.stringify(value); top.document.body.append(out); };"
    )
    probe = f"<script>{done}\naddEventListener('load', () => {{ {script} }});</script></body>"
    text = page.read_text().replace("</body>", probe)
    if width < NARROWEST:
        text = f'<body style="margin: 0"><iframe width="{width}" height="800" srcdoc="{html.escape(text)}"></iframe>'
    probed = folder / "probed.html"
    probed.write_text(text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=20000"]
    flags += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}"]
    flags += [f"--window-size={width},800", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    ran = subprocess.run([browser, *flags, probed.as_uri()], capture_output=True, text=True, timeout=120)
    assert not [line for line in ran.stderr.splitlines() if "CONSOLE" in line and "error" in line.lower()]
    found = re.search(r'<pre id="probe">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stdout[-2000:] + ran.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def axe() -> str:
    """Returns the source of axe-core: of the file that AXE_CORE names, else of the package axe-core-python."""
    package = find_spec("axe_core_python")
    if "AXE_CORE" not in os.environ and package is None:
        pytest.skip("neither the package axe-core-python nor a file of axe-core (AXE_CORE=axe.min.js) is here")
    found = os.environ.get("AXE_CORE") or Path(package.origin).with_name("axe.min.js")
    return Path(found).read_text()


def violations(page: Path, folder: Path) -> list:
    """Returns the rules of axe-core that a page violates, on a screen in light colours and on a phone in dark ones.

    All that can be folded is unfolded first.
    """
    unfold = "document.querySelectorAll('details').forEach((part) => { part.open = true; });\n"
    script = f"{axe()};\n{unfold}{VIOLATIONS}"
    return [
        *in_a_browser(page, folder, script),
        *in_a_browser(page, folder, script, 390, dark=True),
    ]
