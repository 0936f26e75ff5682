"""The POP-health page: `health` says how it is, `live` keeps it fresh, `server` shows it.

It only reads. Everything comes from what the planner published, and the page says how old that is
before it says that anything is well.
"""
