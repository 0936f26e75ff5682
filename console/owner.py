"""Who orders something, and why: what the logs keep of an operator."""

import getpass
import socket

NO_REASON = "no reason given"


def owner() -> str:
    """The person at this machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
