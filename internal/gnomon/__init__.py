"""Gnomon: a distributed job scheduler managed over REST."""

__version__ = "0.1.0"
