-- What was decided for one version of a job, unless the job has another by now.
local job = find_job(A.id)
if not job then
  return 'not_found'
elseif job.version ~= A.version then
  return 'changed'
end
local columns = A.columns
if columns and columns.name ~= job.name then
  if columns.name and call('HEXISTS', PREFIX .. 'names', columns.name) == 1 then
    return 'name_taken'
  end
  if job.name then
    call('HDEL', PREFIX .. 'names', job.name)
  end
  if columns.name then
    call('HSET', PREFIX .. 'names', columns.name, A.id)
  end
end
local changes = {
  status = A.status, revision = A.revision, next_run = A.next_run or false, held_until = false, hold_reason = false,
  pause_reason = A.pause_reason or false, paused_until = A.paused_until or false, updated_at = A.updated_at,
}
if columns then
  changes.name = false
  for name, value in pairs(columns) do
    changes[name] = value
  end
  call('HSET', PREFIX .. 'revisions:' .. A.id, A.revision, A.definition)
end
event(A.id, A.event)
change_job(A.id, job, changes)
if A.paused_until or A.next_run then
  announce_at(A.paused_until or A.next_run)
end
announce()
return shown_job(A.id)
