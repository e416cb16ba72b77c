# SPDX-License-Identifier: Apache-2.0
"""``hotpage top``: a live session as tables that are gone into: processes, mappings, ranges, pages.

    feed.py     what the session offers: pictures that do not change any more, details on demand
    levels.py   what a table is: its rows, its columns, where Enter leads
    processes.py mappings.py ranges.py   the tables, one inside the other
    columns.py  what a column shows, and how columns share the width
    header.py   the lines above the table
    grid.py     the table as a widget; app.py the application
    screens.py movescreen.py   what lies over the table
    batch.py    the same for scripts; web.py for browsers

Only app.py, grid.py, the screens and web.py know Textual.
"""
