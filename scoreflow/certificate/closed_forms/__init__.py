"""Rows of the certificate against closed forms: processes, samplers' steps, and other parts."""
