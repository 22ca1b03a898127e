-- Ends a job, and as much of what has not begun as one call may; answers how much is left for `sweep`.
local job = find_job(A.id)
if not job then
  return 'not_found'
end
if A.revision and tonumber(job.revision) ~= A.revision then
  return {job.revision}
end
event(A.id, {
  action = 'DELETED', revision = tonumber(job.revision), owed_until = job.status == 'RUNNING' and job.next_run or nil,
})
change_job(A.id, job, {
  status = 'STOPPED', next_run = false, paused_until = false, deleted_at = now, updated_at = now,
})
if job.name then
  call('HDEL', PREFIX .. 'names', job.name)
end
call('ZADD', PREFIX .. 'deleted', text(now), A.id)
call('ZREM', PREFIX .. 'jobs', job_member(A.id, job.created_at))
return cancel_open(A.id, A.limit)
