"""The protocol of docs/protocol.md as an explicit-state model: every order of its steps, every fault, to the end.

`execution` is one execution among workers, a broker that loses and repeats, crashes, pauses, lost replies, a cancel and
a delete; `overlap` is one job whose executions get in each other's way. Each has its promises. `mutants` are the
protocols one gets by taking a guard away, each with the promise that breaks: that is what the guard is for.

A statement is one atomic step here: it is to lock the rows it changes before it looks at them (`pick … for no key
update`), so that it sees what others commit meanwhile. Where that is not so (promotions choose by the statement's
snapshot) or the code takes several statements, the model does it in as many steps. Time is not modelled: what takes a
while may happen at any moment, or after anything else. Run now and backfill are left out: they hold the job's lock and
insert as a dispatch does.
"""
