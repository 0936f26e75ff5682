"""How an RTT is measured: one file per method, each a function that is opened for a time-out.

A method says how long an answer took or that none came; whether the answer was friendly is not
its business, so a refused connection is an answer. What the own machine refuses (no permission,
no descriptors, no route out of it) is `SetupError`, never a loss.
"""

from collections.abc import Callable

from popsteer.samples import Method
from probes.methods.dns import open_dns
from probes.methods.http import open_http
from probes.methods.icmp import open_icmp
from probes.methods.measurement import Measure, Measurement
from probes.methods.tcp import open_tcp
from probes.methods.tls import open_tls

METHODS: dict[Method, Callable[[float], Measure]] = {
    Method.ICMP: open_icmp,
    Method.TCP: open_tcp,
    Method.TLS: open_tls,
    Method.HTTP: open_http,
    Method.DNS: open_dns,
}
"""Each opens a method for a time-out in seconds; open it once and measure with it often."""

__all__ = ["METHODS", "Measure", "Measurement"]
