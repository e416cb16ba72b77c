"""hotpage: which pages of which processes are hot, and do they sit in the memory they deserve?

The road of one access, which is also the order of the folders:

    kernel       NUMA hint fault     page fault     memory sample (PEBS, IBS)
                        \\              |              /
    bpfprog/         one program each, one 32-byte record (hotpage.h)
                              |  ring buffer
    capture/         map the ring, view a batch as a numpy array, count every loss
                              |  batch: structured array, thousands of events
    heat/            estimate each page's access rate, with its certainty
                              |  heat table, read-only from here on
    profile/         snapshots; live/: changed in place for views, disk/: Parquet for sessions
                              |
    placement/       plans of moves, and the movers that carry them out
                              |
    views/           report, heat strips, tables; top: the live view
                              |
    cli/             one file per verb

    recording/       drives that road for one session, and steers what it costs
    service/         hotpage auto: sessions, plans and moves in a loop

``machine/`` (topology, processes, knobs), ``arrays`` and ``errors`` are the ground floor: everyone may stand
on them. No stage imports a later one; tests/unit/test_layers.py holds the package to that.
"""

__version__ = "0.1.0"
