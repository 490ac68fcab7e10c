"""The recorder: record types, the durable spool, and the actor that empties it."""
