"""What tokens cost: the table of prices, which of them is meant, and the arithmetic.

Three modules without input and output: :mod:`.table` reads a table and says what is wrong with
it, :mod:`.names` knows the names that one model goes by, and :mod:`.cost` works out what the
tokens of one record cost.  ``table.json`` holds the providers' list prices;
``.ci/prices`` makes it.
"""
