"""Servers the tests run against that Gnomon itself never starts."""
