"""The benchmark harness: ``python -m bench --help`` from the top of the checkout.

It starts an imitation provider, puts one gateway after the other in front of it, drives load
through it and says what each request and each event cost.  Nothing is installed outside the
cache folder, every port is a free one, and no process stays behind.

============== =========================================================================
``cli``        the commands
``plan``       which measurements a run consists of, and in which order
``scenarios/`` what each measurement does
``runner``     one measurement: start, warm up, load, wait for the records, stop
``systems/``   what is measured: direct, aigateway, nginx, LiteLLM, Portkey
``upstream/``  the imitation provider, a process of its own
``load/``      the load drivers, each a process of its own
``machine``    CPU, memory and steal time, from /proc
``ledger``     whether a record was lost
``report/``    JSON, Markdown, plots and docs/performance.md
============== =========================================================================
"""
