"""Parts of the gateway by themselves, each a program that the measured revision's Python runs.

So they import nothing but ``aigateway``, what that needs, and Python's own library.  Each takes
its options as JSON and prints its numbers as JSON in the last line; what they mean is said in
``bench/scenarios/parts.py``.
"""
