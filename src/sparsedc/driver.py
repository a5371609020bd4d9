"""Snakemake drives a run's commands, and where it is killed they end with it: none is in the way of the next run.

A trainer writes a checkpoint first (`sparsedc.train.stop`). This module imports no torch.
"""

import os
import select
import signal
import sys
import threading

from sparsedc.train.warm import FORKED_VARIABLE, RUN_VARIABLE


def end_with_driver() -> None:
    """Ask this process to end (SIGTERM) as soon as the Snakemake that started it is gone; nothing where there is none.

    A child of the warm server needs no watch: the server ends it when the client that asked for it has gone.
    """
    run = os.environ.get(RUN_VARIABLE)
    if run is None or FORKED_VARIABLE in os.environ:
        return
    try:
        driver = os.pidfd_open(int(run.split()[0]))
    except ProcessLookupError:
        sys.exit("error: the Snakemake that asked for this has ended")
    except (OSError, AttributeError):  # a system that knows no such descriptors
        return

    def watch() -> None:
        poll = select.poll()
        poll.register(driver, select.POLLIN)  # when the process ends
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
