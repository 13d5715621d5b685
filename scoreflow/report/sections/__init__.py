"""The sections of a report, a module a kind of result: each makes blocks from JSON."""
