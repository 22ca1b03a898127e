local job = A.job
if job.name and call('HEXISTS', PREFIX .. 'names', job.name) == 1 then
  return 'name_taken'
end
if call('EXISTS', job_key(A.id)) == 1 then
  return 'exists'
end
write(job_key(A.id), job)
call('HSET', PREFIX .. 'revisions:' .. A.id, '1', A.definition)
if job.name then
  call('HSET', PREFIX .. 'names', job.name, A.id)
end
call('ZADD', PREFIX .. 'jobs', '0', job_member(A.id, job.created_at))
place_job(A.id, job)
event(A.id, A.event)
if job.next_run then
  announce_at(job.next_run)
end
announce()
return shown_job(A.id)
