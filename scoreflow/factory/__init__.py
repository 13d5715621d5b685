"""Build objects from a config.

A config is a ConfigDict, whose keys, types and ranges `scoreflow.schema` checks, or a
`schema.config.Config`, its frozen form; every function here takes either. Each name in it is
looked up in a dictionary and refused with the names that there are, before any work.
"""
