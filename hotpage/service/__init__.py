# SPDX-License-Identifier: Apache-2.0
"""``hotpage auto``: the loop that keeps pages where they belong, for as long as it runs.

recording (a session in its own thread)
      |
heatfeed.py        on request: every page's rate, straight from the heat table
      |                     configuration.py, learned.py: rates from before a restart
survey.py          whose pages, on which nodes (nodemap.py), within which limits: a situation
      |
keeper.py          one round: policy -> plan -> mover -> outcome (placement)
      |                     bounces.py: what was moved in vain slows its cgroup down, shortens P
loop.py            rounds, signals, questions (control.py, decisions.py), systemd (notify.py)
      |
reporting.py       a line where something happened, the decision log, metrics.py

running.py starts it, in a process that has forgotten the command line (__main__.py).
"""
