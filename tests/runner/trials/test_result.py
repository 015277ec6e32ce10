"""The result of a search on the screen."""

from trainopt.runner.trials.result import TrialSearchResult, show_trials


def test_values_in_brackets_are_shown(tmp_path, capsys):
    trial = {"number": 3, "state": "finished", "value": 0.5, "params": {"regularizer": "[l2,bias]"}}
    content = {
        "metric": "loss",
        "direction": "minimize",
        "space": {"regularizer": {}},
        "trials": [trial],
        "best": {"number": 3, "value": 0.5, "params": trial["params"]},
        "at_boundary": [],
    }
    show_trials(tmp_path, TrialSearchResult(content, []))
    assert "[l2,bias]" in capsys.readouterr().out.splitlines()[1]
