"""The compiled answer path: one nopython loop from recvmmsg to sendmmsg.

What it does not know it hands to the slow path, which is also its specification: the answers
that it replays are asked of the slow path when a zone is loaded (`templates`).
"""
