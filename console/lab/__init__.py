"""The lab under `popsteer up`: POPs that listen, clients that ask, changes that a person makes.

It stands where the Internet stands in production. What it feeds into the loop crosses real
sockets: health checks and TCP probes meet real listeners, demand is real DNS queries, and each
POP's load is reported over HTTP to its agent.
"""
