"""The identities of the equivalence certificate, a module a kind; see `equivalence`."""
