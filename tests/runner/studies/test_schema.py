"""The file of a study: what it says is read, and what cannot be is refused in a line."""

import pytest
import yaml

from trainopt.runner.studies.schema import read_study
from trainopt.runner.system.errors import UserError

CLAIM = {"text": "more is more", "paper": "page 1", "order": "above", "of": ["a", 1]}
AT_MOST = CLAIM | {"order": "at_most", "factor": 1.5}
WHOLE = {
    "title": "Tiny",
    "source": "nobody, 2020",
    "scales": {"smoke": {"about": "digits"}},
    "sweeps": {"one": {"typed": {"smoke": ["seed=0"]}}, "two": {"after": ["one"], "typed": {}}},
    "values": {"a": {"sweep": "one", "value": "final.top1"}},
    "claims": [CLAIM],
}
TABLE = {"title": "", "paper": "", "rows": {"a": {}}, "columns": {"b": {"sweep": "one", "value": "final.loss"}}}
FIGURE = {"title": "", "paper": "", "sweep": "one", "x": "steps", "y": {"kind": "test", "column": "loss"}}


@pytest.fixture
def read(tmp_path):
    def write_and_read(**parts):
        content = {key: value for key, value in (WHOLE | parts).items() if value is not None}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_study(path)

    return write_and_read


def test_a_study_is_read(read):
    study = read(tables=[TABLE | {"reference": {"a": {"b": 1}}}], figures=[FIGURE])
    assert (study.name, study.title) == ("tiny", "Tiny")
    assert study.sweeps["two"].after == ["one"]
    assert study.claims[0].of == ["a", 1]
    assert study.tables[0].cell("a", "b") == {"sweep": "one", "value": "final.loss"}


def test_its_numbers_are_numbers(tmp_path):
    """Of YAML 1.1 as PyYAML reads it, 1e-4 is text."""
    text = yaml.safe_dump(WHOLE | {"claims": [CLAIM | {"order": "equal", "within": "NUMBER"}]})
    path = tmp_path / "tiny.yaml"
    path.write_text(text.replace("NUMBER", "1e-4"))
    assert read_study(path).claims[0].within == 1e-4


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"tittle": "x"}, "tiny.yaml: tittle: unknown key; did you mean title?"),
        ({"name": "x"}, "tiny.yaml: name: unknown key"),
        ({"title": None}, "tiny.yaml: title: is missing"),
        ({"sweeps": None}, "tiny.yaml: sweeps: is missing"),
        ({"title": 2020}, "tiny.yaml: title: must be text, and is 2020"),
        ({"scales": ["smoke"]}, "tiny.yaml: scales: must be keys and values, and is"),
        ({"scales": {"smoke": "digits"}}, "tiny.yaml: scales.smoke: must be keys and values, and is digits"),
        ({"scales": {"smoke": {"about": "", "minutes": "2"}}}, "scales.smoke.minutes: must be a number or null"),
        ({"scales": {"smal": {"about": ""}}}, "scales.smal: no such scale; did you mean small?"),
        ({"sweeps": {"one": {"typed": {"smoke": "seed=0"}}}}, "sweeps.one.typed.smoke: must be a list, and is seed=0"),
        ({"sweeps": {"one": {"typed": {"small": []}}}}, "sweeps.one.typed.small: no such scale"),
        ({"sweeps": {"one": {"typed": {}, "after": ["ona"]}}}, "after: ona: no such sweep; did you mean one?"),
        (
            {"sweeps": {"one": {"typed": {}, "after": ["two"]}, "two": {"typed": {}}}},
            "sweeps.one.after: two: has to stand before one",
        ),
        ({"values": {"a": {"sweep": "oen", "value": "x"}}}, "values.a: sweep: oen: no such sweep; did you mean one?"),
        ({"values": {"a": {"sweep": "one", "value": "x", "where": "y"}}}, "values.a: where: must be keys and"),
        ({"claims": {"a": CLAIM}}, "claims: must be a list"),
        ({"claims": [CLAIM | {"of": ["a", "b"]}]}, "claims[0].of: b: no such value"),
        ({"claims": [CLAIM | {"of": ["a"]}]}, "claims[0].of: above takes two values"),
        ({"claims": [CLAIM | {"order": "equal"}]}, "claims[0].within: belongs to order: equal"),
        ({"tables": [TABLE | {"rows": {"a": {"where": []}}}]}, "tables[0]: where: must be keys and values"),
        ({"tables": [TABLE | {"reference": {"c": {"b": 1}}}]}, "tables[0].reference.c: no such row"),
        ({"tables": [TABLE | {"differs": {"smol": ""}}]}, "tables[0].differs.smol: no such scale"),
        ({"claims": [CLAIM | {"order": "at_most"}]}, "claims[0].factor: belongs to order: at_most, which needs it"),
        ({"claims": [AT_MOST | {"of": ["a", 1, 2]}]}, "claims[0].of: at_most takes pairs of values"),
        ({"claims": [AT_MOST | {"pairs": 2}]}, "claims[0].pairs: belongs to order: at_most, and is from 1"),
        ({"tables": [TABLE | {"statistic": "mode"}]}, "tables[0].statistic: mode: no such statistic"),
        ({"tables": [TABLE | {"digits": None}]}, "tables[0].digits: null belongs to statistic: median"),
        (
            {"tables": [TABLE | {"statistic": "median", "reference": {"a": {"b": 1}}}]},
            "tables[0].reference: belongs to statistic: mean",
        ),
        ({"tables": [TABLE | {"statistic": "median", "plot": "x"}]}, "tables[0].plot: belongs to statistic: median"),
        ({"values": {"a": {"sweep": [], "value": "x"}}}, "values.a: sweep: is missing"),
        ({"values": {"a": {"sweep": ["one", "tow"], "value": "x"}}}, "values.a: sweep: tow: no such sweep"),
        ({"values": {"a": {"sweep": "one", "value": "x", "best": "seed"}}}, "values.a: best: belongs to row with"),
        ({"values": {"a": {"sweep": "one", "value": "x", "over": {"sweeps": 1}}}}, "values.a: over: sweeps: unknown"),
        ({"pictures": [FIGURE]}, "pictures: is now figures"),
        (
            {"figures": {"a": {"sweep": "one", "value": "x"}}},
            "figures: are now a list of figures to draw; metrics by name",
        ),
        ({"tables": [TABLE | {"figure": {}}]}, "tables[0].figure: is now tables[0].metric"),
        ({"figures": [FIGURE | {"log": ["z"]}]}, "figures[0].log: z: no such axis; there are x, y"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(read, parts, said):
    with pytest.raises(UserError) as refused:
        read(**parts)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "- 1\n", "", "\xff\xfe"])
def test_a_file_that_is_none_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "tiny.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="tiny.yaml") as refused:
        read_study(path)
    assert "\n" not in str(refused.value)
