-- More of what a deletion left.
return cancel_open(A.id, A.limit)
