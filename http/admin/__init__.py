"""The admin API: people, keys, policy and the table of changes, as JSON over HTTP."""
