"""`popsteer up`: the whole loop on one machine, over an embedded AWS.

Every process is the one that runs in production; only endpoints differ, and the lab stands where
the Internet would.
"""
