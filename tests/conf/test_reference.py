"""The pages of the reference, which are generated: every key of the configuration has a meaning there."""

import importlib.util
import re

import pytest
import yaml

from helpers import ROOT
from trainopt.runner.config.options import CONF, Vocabulary

SPEC = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)
OPTIONS = Vocabulary([CONF])
COMMON = {key.name: key for key in reference.read_keys((CONF / "config.yaml").read_text())[1]}


def load(text):
    return yaml.load(text, Loader=yaml.CSafeLoader)


FILES = {group: [OPTIONS.file(group, name) for name in OPTIONS.options(group)] for group in OPTIONS.groups}
FILES |= {group: sorted((CONF / group).glob("*.yaml")) for group in reference.SWEEPS}
FILES["every run"] = [CONF / "config.yaml"]


def flat(content, prefix=""):
    """The dotted names of keys with a value."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("group", [group for group in FILES if group not in reference.EXAMPLES])
def test_every_key_has_its_default_and_a_meaning(group):
    assert FILES[group]
    for path in FILES[group]:
        content = load(path.read_text()) or {}
        content.pop("defaults", None)
        head, keys = reference.read_keys(path.read_text())
        assert head, path
        keys = {key.name: key for key in keys if not key.name.startswith("defaults")}
        assert set(flat(content)) <= set(keys), path
        for name in flat(content):
            node = content
            for part in name.split("."):
                node = node[part]
            if not isinstance(node, dict | list):
                assert load(keys[name].default) == node, (path, name)
            if not name.endswith("_target_"):
                assert keys[name].meaning or COMMON[f"{group}.{name}"].meaning, (path, name)


def test_a_comment_above_a_key_and_one_behind_it_are_its_meaning():
    head, keys = reference.read_keys(
        "# About it.\na: 1 # one\n# two\n# lines\nb: 'x # y'\nc:\n  - 1\nd: {e: 2} # three\n"
    )
    assert head == "About it."
    assert [(key.name, key.default, key.meaning) for key in keys] == [
        ("a", "1", "one"),
        ("b", "'x # y'", "two lines"),
        ("c", "['1']", ""),
        ("d", "{e: 2}", "three"),
    ]


def test_every_file_of_the_configuration_that_has_keys_has_a_place():
    pages = reference.configuration_pages(OPTIONS)
    for path in [path for group in reference.SWEEPS for path in FILES[group]]:
        page = pages[str(path.parent.relative_to(CONF)).replace("/", "_")]
        assert f"={path.stem}\n" in page
        for name in flat(load(path.read_text())):
            assert name.endswith("_target_") or f".{name}`" in page, (path, name)


def test_pages_of_spaces_suites_and_studies_have_every_range_target_and_scale():
    def folder(group):
        return [(path.stem, load(path.read_text())) for path in sorted((CONF / group).glob("*.yaml"))]

    space, suite, study = reference.space_page(), reference.suite_page(), reference.study_page()
    for name, ranges in folder("space"):
        section = space.partition(f"## optimizer={name}\n")[2].partition("\n## ")[0]
        for key, values in ranges.items():
            shown, source = re.search(rf"\| `{key}` \| (.+) \| (.+) \|", section).groups()
            assert shown == f"`{values}`"
            assert source.strip()
    for name, content in folder("suite"):
        section = suite.partition(f"## {name}: ")[2].partition("\n## ")[0]
        assert all(word in section for word in content["overrides"])
        for workload, entry in content["workloads"].items():
            row = section.partition(f"| {workload} | ")[2].partition("\n")[0]
            assert all(word in row for word in (*entry["overrides"], entry["metric"]))
            assert float(row.split()[-2]) == entry["target"]
    for name, content in folder("study"):
        section = study.partition(f"## {name}: ")[2].partition("\n## ")[0]
        assert "trainopt reproduce" not in section
        for scale, entry in content["scales"].items():
            assert entry["about"] in section.partition(f"| {scale} | ")[2].partition("\n")[0]
