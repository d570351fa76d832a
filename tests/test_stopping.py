"""Being asked to stop."""

import os
import signal
import threading

import pytest

from hardlab import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_request_to_stop_is_noted_and_the_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with stopping.requests() as asked:
        os.kill(os.getpid(), number)
        assert asked == [number]
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_no_handler_is_touched():
    before, handlers = {s: signal.getsignal(s) for s in stopping.SIGNALS}, []

    def elsewhere():
        with stopping.requests() as asked:
            handlers.append((list(asked), {s: signal.getsignal(s) for s in stopping.SIGNALS}))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [([], before)]
