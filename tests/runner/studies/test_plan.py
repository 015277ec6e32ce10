"""The plan of a study: on which files its composed jobs depend."""

from trainopt.runner.config.options import CONF
from trainopt.runner.studies.plan import composition_files


def test_jobs_depend_on_options_and_on_the_code_that_composes_them(tmp_path):
    for name in ("optimizer/slow.yaml", "optimizer/deep/slower.yaml", "space/wide.yaml", "study/mine.yaml", "x/y.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = composition_files([tmp_path, CONF])
    own = {str(file.relative_to(tmp_path)) for file in files if file.is_relative_to(tmp_path)}
    assert own == {"optimizer/slow.yaml", "optimizer/deep/slower.yaml", "space/wide.yaml"}
    shipped = {str(file.relative_to(CONF.parent)) for file in files if file.is_relative_to(CONF.parent)}
    assert shipped >= {
        "conf/config.yaml",
        "conf/optimizer/adam.yaml",
        "conf/experiment/zorca2020/digits.yaml",
        "runner/config/validate.py",
        "runner/sweeps/jobs.py",
        "runner/search/tournament.py",
        "runner/records/run_folder.py",
    }
    packages = {name.rpartition("/")[0] for name in shipped if name.endswith(".py")}
    config = {"runner/config", "runner/config/forms"}
    assert packages == {*config, "runner/search", "runner/sweeps", "runner/trials", "runner/records"}
    assert not {name for name in shipped if name.startswith("conf/study/")}
