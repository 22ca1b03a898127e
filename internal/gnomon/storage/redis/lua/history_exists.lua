return call('EXISTS', job_key(A.id))
