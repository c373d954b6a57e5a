from __future__ import annotations

import os
import signal
import time

import pytest

from recbole_mm.cli.signals import TerminatedError, terminable

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")


class Finalized:
    """Is met by a signal while it is cleaned up, where Python swallows what the handler raises."""

    def __init__(self, number):
        self._number = number

    def __del__(self):
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, TerminatedError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_meets_a_finalizer_is_not_lost(number, error):
    begin = time.monotonic()
    with pytest.raises(error), terminable():
        part = Finalized(number)
        del part
        while time.monotonic() - begin < 10:
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_does_not_disturb_the_answer_to_the_first():
    with terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except TerminatedError:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        else:
            raise AssertionError
