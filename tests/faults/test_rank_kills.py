"""A run on several processes of which one is killed, and that is continued, ends as if nobody had disturbed it."""

import signal

import pytest

from faults.rank_kills import RankKill, RankLine, strike

KILL, TERM = signal.SIGKILL, signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [
        [(2, "step", 1, KILL, 5), (2, "evaluation", 1, TERM, 2)],  # the same bit for bit
        [(3, "step", 2, TERM, 3), (2, "half written", 0, KILL, 2)],  # to rounding
    ],
)
def test_a_run_on_several_processes_that_is_struck(tmp_path, kills):
    line = RankLine("ehnewton", tmp_path)
    sequence = strike(line, tmp_path / "parts", [RankKill(*kill) for kill in kills], 2)
    assert sequence.problem == ""
    assert [kill.struck for kill in sequence.kills] == [True] * len(kills)
