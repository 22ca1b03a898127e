"""The protocol of docs/protocol.md as an explicit-state model: every order of its steps, every fault, to the end.

`execution` is one execution among workers, a broker that loses and repeats, crashes, pauses, lost replies, a cancel and
a delete; `overlap` is one job whose executions get in each other's way. Each has its promises. `mutants` are the
protocols one gets by taking a guard away, each with the promise that breaks: that is what the guard is for.

A statement is one atomic step here, because all of them lock the rows they change before they look at them (`pick … for
no key update`): what another session commits meanwhile is seen. Where the code takes several statements, so does the
model. Time is not modelled: what takes a while may happen at any moment, or after anything else.
"""
