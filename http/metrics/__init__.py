"""Prometheus metrics: what is counted, by whom, and the listener that shows it.

Worker processes count into memory-mapped files of one folder (prometheus-client's
multiprocess mode); a small process of its own reads them, so that scrapes never queue
behind traffic.  Without ``--prometheus-enable`` nothing of this is imported.
"""
