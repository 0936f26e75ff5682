"""`python -m aggregator.child`: a record processor that dies with the daemon that started it.

The daemon of a record processor is a JVM that may be killed at any moment, also while its child
still imports. So the child first of all watches its stdin for the hang-up that the kernel reports
when the last writer is gone (poll(2), POLLHUP), and only then loads what it needs. To end at once
is safe: what is not written yet is the next owner's to fold.
"""

import os
import select
import sys
import threading


def main() -> None:
    """Watch the daemon, then be its record processor."""
    watch(sys.stdin.fileno())
    from aggregator import consumer

    consumer.main()


def watch(descriptor: int) -> None:
    """End this process as soon as nobody is left to write to `descriptor`."""
    threading.Thread(target=_end_at_hang_up, args=(descriptor,), daemon=True).start()


def _end_at_hang_up(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # no event asked for: a hang-up is always reported
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
