"""The stores within one process, for the library and for tests.

They promise what docs/protocol.md says of states, fences and overlap, among the threads of one process. Nothing
survives the process: what was due is lost with it, and so is what ran. History is bounded, see `Memory`.
"""
