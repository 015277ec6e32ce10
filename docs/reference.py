"""Writes the pages of reference/ before Sphinx reads its sources: the configuration, the commands, the Python API.

Nothing in them is written by hand: keys, defaults and meanings are those of the YAMLs of conf/, what a key takes is in
conf/allowed.yaml, and the rest are the parsers of the commands and the docstrings.
"""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainopt.runner.cli import COMMANDS
from trainopt.runner.commands.help import USAGE
from trainopt.runner.config.options import CONF, Vocabulary

DOCS = Path(__file__).parent
FOLDER = "reference"
MODULES = ("trainopt.optimizers", "trainopt.runner", "trainopt.data", "trainopt.models")
PROJECT_FILES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")  # pages of the site, too
EXAMPLES = ("experiment", "debug")  # groups whose options set keys of other groups
SWEEPS = {  # groups that are no part of a run, what their keys begin with, and what chooses among their options
    "hydra/sweeper": ("hydra.sweeper", "`trainopt -m hydra/sweeper=OPTION` chooses one of these."),
    "cluster": ("cluster", "What `trainopt submit` asks for; with `--to ray`, of Ray."),
}


@dataclass
class Key:
    """A key of a YAML file.

    Attributes:
        name: dotted, within the file.
        default: as it is written there.
        meaning: its comment; empty where it has none.
    """

    name: str
    default: str
    meaning: str


def read_keys(text: str) -> tuple[str, list[Key]]:
    """Returns the comment at the head of a YAML file, and its keys with theirs."""
    lines = text.splitlines()
    head_lines = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = [line[1:].strip() for line in lines[:head_lines] if "@package" not in line]
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    return " ".join(head), [] if root is None else list(_keys(root, lines, head_lines, ""))


def _keys(node: yaml.MappingNode, lines: list[str], head_lines: int, prefix: str):
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        line = key.start_mark.line
        meaning = _comment(lines, line, value, head_lines)
        if isinstance(value, yaml.MappingNode) and value.value and value.start_mark.line > line:
            if meaning:
                yield Key(name, "", meaning)
            yield from _keys(value, lines, head_lines, f"{name}.")
        else:
            yield Key(name, _source(lines, value), meaning)


def _source(lines: list[str], value: yaml.Node) -> str:
    start, end = value.start_mark, value.end_mark
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        return str([item.value for item in value.value]) if value.value else "[]"
    return lines[start.line][start.column : end.column] if start.line == end.line else str(value.value)


def _comment(lines: list[str], line: int, value: yaml.Node, head_lines: int) -> str:
    """Returns the comment above a key, and that behind its value."""
    after = value.end_mark.column if value.end_mark.line == line else len(lines[line].partition("#")[0])
    _, hash_sign, behind = lines[line][after:].partition("#")
    words = [behind.strip()] if hash_sign else []
    while line - 1 >= head_lines and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip()[1:].strip())
    return " ".join(words)


def _cell(text: str) -> str:
    """Returns a text as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("$", "\\$").replace("*", "\\*")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def table(keys: list[Key], group: str, rules: dict[str, Any], common: dict[str, Key]) -> list[str]:
    """Returns a table of keys, a line each.

    Args:
        keys: of a file.
        group: whose keys they are; empty for the keys of every run.
        rules: what each key takes.
        common: the keys of every run, whose meanings an option need not repeat.
    """
    names = [f"{group}.{key.name}" if group else key.name for key in keys]
    takes = [str(rules.get(name, "")).removeprefix("one of ") for name in names]
    columns = ["key", "default", *(["takes"] if any(takes) else []), "meaning"]  # without: classes check their keys
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for name, key, rule in zip(names, keys, takes, strict=True):
        meaning = key.meaning or (common[name].meaning if name in common else "")
        cells = [f"`{name}`", _code(key.default), *([_cell(rule)] if any(takes) else []), _cell(meaning)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def configuration_pages(vocabulary: Vocabulary) -> dict[str, str]:
    """Returns a page for the keys of every run and one for each group."""
    rules = yaml.safe_load((CONF / "allowed.yaml").read_text())
    _, keys = read_keys((CONF / "config.yaml").read_text())
    common = {key.name: key for key in keys if not key.name.startswith("defaults")}
    pages = {"keys": "\n".join(["# Keys of every run", "", *table(list(common.values()), "", rules, common), ""])}
    for group in vocabulary.groups:
        files = {option: vocabulary.file(group, option) for option in vocabulary.options(group)}
        pages[group] = group_page(group, group, f"`{group}=OPTION` chooses one of these.", files, rules, common)
    for group, (prefix, intro) in SWEEPS.items():
        files = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
        pages[group.replace("/", "_")] = group_page(group, prefix, intro, files, rules, common)
    return pages


def group_page(
    group: str, prefix: str, intro: str, files: dict[str, Path], rules: dict[str, Any], common: dict[str, Key]
) -> str:
    """Returns the page of a group.

    Args:
        group: its name.
        prefix: what the names of its keys begin with.
        intro: the line below the title.
        files: the YAML files of its options, by their names.
        rules: what each key takes.
        common: the keys of every run.
    """
    lines = [f"# Group {group}", "", intro, ""]
    for option, path in files.items():
        head, keys = read_keys(path.read_text())
        keys = [k for k in keys if k.name.partition(".")[0] != "defaults" and k.name.split(".")[-1] != "_target_"]
        lines += [f"## {group}={option}", "", _cell(head), ""]
        if keys and group not in EXAMPLES:
            lines += [*table(keys, prefix, rules, common), ""]
        elif keys:
            lines += ["```yaml", *[text for text in path.read_text().splitlines() if text[:1] != "#"], "```", ""]
    return "\n".join(lines)


def option_files(group: str) -> dict[str, str]:
    """Returns the texts of the options of a folder of conf/, by their names."""
    return {path.stem: path.read_text() for path in sorted((CONF / group).glob("*.yaml"))}


def space_page() -> str:
    """Returns the page of the search spaces: ranges and their sources."""
    lines = ["# Search spaces", "", "Searches and tournaments draw from these, unless other ranges are typed.", ""]
    for name, text in option_files("space").items():
        rows = [f"| `{key.name}` | {_code(key.default)} | {_cell(key.meaning)} |" for key in read_keys(text)[1]]
        lines += [f"## optimizer={name}", "", "| key | range | source |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def suite_page() -> str:
    """Returns the page of the benchmark suites: workloads and targets."""
    lines = ["# Benchmark suites", "", "`trainopt benchmark SUITE` ranks optimizers on one of these.", ""]
    for name, text in option_files("suite").items():
        suite = yaml.safe_load(text)
        effort = f"{suite['full']['trials']} trials a study and workload, {suite['full']['studies']} studies"
        quick = f"{suite['quick']['trials']} and {suite['quick']['studies']} with `--quick`"
        lines += [f"## {name}: {suite['title']}", "", f"{effort}; {quick}. Targets: {_cell(suite['targets'])}.", ""]
        lines += [f"All workloads have {_code(' '.join(suite['overrides']))}.", ""]
        lines += ["| workload | what | overrides | target |", "| --- | --- | --- | --- |"]
        for workload, entry in suite["workloads"].items():
            overrides = _code(" ".join(entry["overrides"]))
            sign = "at most" if entry["direction"] == "minimize" else "at least"
            target = f"`{entry['metric']}` {sign} {entry['target']}" if entry["target"] is not None else "none yet"
            lines.append(f"| {workload} | {_cell(entry['about'])} | {overrides} | {target} |")
        lines.append("")
    return "\n".join(lines)


def study_page() -> str:
    """Returns the page of the studies that `trainopt reproduce` repeats: scales, and what they need."""
    lines = ["# Studies", "", "`trainopt reproduce STUDY --scale SCALE` repeats one of these.", ""]
    for name, text in option_files("study").items():
        study = yaml.safe_load(text)
        about = read_keys(text.partition("\n")[2])[0]  # the first line is the command
        lines += [f"## {name}: {study['title']}", "", f"{_cell(study['source'])}.", "", _cell(about), ""]
        lines += ["| scale | what is run | minutes on two cores | data |", "| --- | --- | --- | --- |"]
        for scale, entry in study["scales"].items():
            needs = ", ".join([*entry.get("data", []), *map(_code, entry.get("files", []))])
            lines.append(f"| {scale} | {_cell(entry['about'])} | {entry.get('minutes', '')} | {needs} |")
        lines.append("")
    return "\n".join(lines)


def command_page() -> str:
    """Returns the page of the command line: the usage, and the arguments of each command."""
    lines = ["# Command line", "", "```text", USAGE.rstrip(), "```", ""]
    for name, module in COMMANDS.items():
        parser = importlib.import_module(f"trainopt.runner.commands.{module}").parser()
        lines += [f"## trainopt {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def api_page(module_name: str) -> str:
    """Returns the page of the public names of a package."""
    module = importlib.import_module(module_name)
    lines = [f"# {module_name}", "", str(module.__doc__).partition("\n")[0], "", "```{eval-rst}"]
    for name in sorted(module.__all__):
        if not callable(getattr(module, name)):
            continue
        kind = "autoclass" if isinstance(getattr(module, name), type) else "autofunction"
        lines += [f".. {kind}:: {module_name}.{name}", *(["   :members:"] if kind == "autoclass" else []), ""]
    return "\n".join([*lines, "```", ""])


def project_page(name: str) -> str:
    """Returns a file of the repository's root as a page of the site, with links as they are from there."""
    text = (DOCS.parent / name).read_text()
    return text.replace("](docs/", "](../").replace("](CONTRIBUTING.md)", "](contributing.md)")


def index_page(pages: list[str]) -> str:
    """Returns the page that lists the others."""
    names = "\n".join(pages)
    return f"# Reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"


def write_pages() -> None:
    """Writes all pages; a page that has not changed is left as it is, so that it is not read again."""
    pages = {"commands": command_page(), **configuration_pages(Vocabulary([CONF]))}
    pages |= {"space": space_page(), "suite": suite_page(), "study": study_page()}
    pages |= {module.replace(".", "_"): api_page(module) for module in MODULES}
    pages |= {name.lower().removesuffix(".md"): project_page(name) for name in PROJECT_FILES}
    pages["index"] = index_page(list(pages))
    folder = DOCS / FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def link_to_pages(app: Any, document: str, source: list[str]) -> None:
    """Lets links to files of the repository's root lead to their pages."""
    del app
    up = "" if document.startswith(FOLDER) else f"{FOLDER}/"
    for name in PROJECT_FILES:
        source[0] = source[0].replace(f"](../{name})", f"]({up}{name.lower()})")


def show_formulas(app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Lets formulas of docstrings be read as they are: in blocks, and with bars and stars in text, as in |x| and f*."""
    del app, what, name, thing, options
    shown: list[str] = []
    is_top = True  # of the docstring's text, and not of a section as Args
    for paragraph in "\n".join(lines).split("\n\n"):
        rows = paragraph.split("\n")
        is_indented = all(row.startswith("    ") for row in rows)
        if is_top and (is_indented or (len(rows) > 1 and all(re.search("^[^> ].*( = | <- )", row) for row in rows))):
            shown += ["::", "", *(row if is_indented else f"    {row}" for row in rows), ""]
        else:
            is_top = not rows[-1].startswith("    ")
            shown += [*(row if row.lstrip().startswith((">>>", "...")) else _escaped(row) for row in rows), ""]
    lines[:] = shown


def _escaped(text: str) -> str:
    """Returns a line of text in which bars and stars outside of code mean themselves."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"\||(?<=\S)\*|\*(?=\S)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def setup(app: Any) -> dict[str, bool]:
    """Tells Sphinx when to write and when to change pages."""
    app.connect("builder-inited", lambda app: write_pages())
    app.connect("source-read", link_to_pages)
    app.connect("autodoc-process-docstring", show_formulas, priority=100)  # before sections become fields
    return {"parallel_read_safe": True}
