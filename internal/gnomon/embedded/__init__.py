"""Postgres and Valkey run as children of this process, from wheels or from what the machine has.

For `gnomon up` and the tests. Loopback only, a password each, no sockets in the file system, nothing outside the data
folder.
"""
