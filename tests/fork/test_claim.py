"""The byte in the pipe: one process of a family gets it, whatever the family does."""

from __future__ import annotations

from support.program import run_program


def test_one_of_many_takes_it_and_those_that_come_later_find_nothing(collector):
    ended = run_program(
        """
        from klime_mp._hold import Claim
        claim = Claim()
        pids = []
        for round in range(2):
            for child in range(8):
                pids.append(os.fork())
                if pids[-1] == 0:
                    say(**{f"round{round}": [claim.take(), claim.take()]})
                    os._exit(0)
            assert [join(pid) for pid in pids] == [0] * len(pids)
            pids.clear()
        assert not claim.take()
        """,
        collector,
    )
    assert sorted(ended.all("round0")) == [False] * 14 + [True] * 2, "who has it may ask again"
    assert ended.all("round1") == [False] * 16


def test_a_descriptor_that_was_closed_and_given_to_a_file_is_left_alone(collector):
    run_program(
        """
        import tempfile
        from klime_mp._hold import Claim
        claim = Claim()
        number = claim._pipe.number
        if os.fork() == 0:
            os.closerange(3, 100)
            assert not claim.take()
            file = tempfile.TemporaryFile()
            os.dup2(file.fileno(), number)
            os.write(number, b"important")
            os.lseek(number, 0, os.SEEK_SET)
            assert not claim.take()
            assert os.lseek(number, 0, os.SEEK_CUR) == 0, "nothing was read"
            del claim
            os.fstat(number)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert claim.take()
        """,
        collector,
    )


def test_what_is_left_of_it_closes_the_pipe(collector):
    run_program(
        """
        from klime_mp._hold import Claim
        before = os.listdir("/proc/self/fd")
        Claim().take()
        assert os.listdir("/proc/self/fd") == before
        """,
        collector,
    )
