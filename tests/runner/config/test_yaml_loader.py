"""The reader of YAML files is OmegaConf's, but for the parser."""

import importlib.util

import pytest
import yaml
from omegaconf import OmegaConf

from trainopt.runner.config.options import CONF, YamlLoader

SCALARS = ["1e-3", "1e3", "1_000", ".5", "0x10", "1:30", "2024-01-01", "on", "~", "'on'", "é", ".inf", "[1, 2e-1, a]"]
BROKEN = ["a: 1\na: 2", "a: b: c", "[1, 2", "a: *x", "a: \x01", "x: !!python/name:os.system"]


@pytest.fixture(scope="module")
def omegaconfs():
    """OmegaConf's own loader, from a second copy of its module: in the first it is replaced."""
    spec = importlib.util.find_spec("omegaconf._utils")
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy.get_yaml_loader()


def test_the_shipped_files_are_read_as_omegaconf_reads_them(omegaconfs):
    texts = [path.read_text(encoding="utf-8") for path in sorted(CONF.rglob("*.yaml"))]
    assert len(texts) > 200
    assert [yaml.load(text, YamlLoader) for text in texts] == [yaml.load(text, omegaconfs) for text in texts]


@pytest.mark.parametrize("scalar", SCALARS)
def test_values_are_those_of_omegaconf(omegaconfs, scalar):
    expected = yaml.load(scalar, omegaconfs)
    read = yaml.load(scalar, YamlLoader)
    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize("text", BROKEN)
def test_what_omegaconf_refuses_is_refused(omegaconfs, text):
    with pytest.raises(yaml.YAMLError) as error:
        yaml.load(text, omegaconfs)
    with pytest.raises(type(error.value)):
        yaml.load(text, YamlLoader)


def test_omegaconf_reads_by_it(tmp_path, monkeypatch):
    (tmp_path / "file.yaml").write_text("a: 1e-3")
    monkeypatch.setattr(YamlLoader, "construct_mapping", lambda loader, node, deep=False: {"read": "by ours"})
    assert OmegaConf.load(tmp_path / "file.yaml") == {"read": "by ours"}
