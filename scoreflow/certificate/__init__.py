"""Identities of the equivalence certificate, a module a kind; see `certificate.certificate`."""
