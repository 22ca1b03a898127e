-- Run and retry: an execution beside the schedule, due at once. A key that is known answers what it made.
local once = A.once and PREFIX .. 'once:' .. A.once
if once then
  local known = fields(once, {'fingerprint', 'resource_id', 'expires_at'})
  if known.expires_at and tonumber(known.expires_at) > now then
    if known.fingerprint ~= A.fingerprint then
      return {'key_reused'}
    end
    local made = shown_execution(known.resource_id)
    return made and {'replayed', made} or {'no_execution', known.resource_id}
  end
end

local birth = {at = now, serial = false}
local job_id = A.job_id
if A.execution_id then
  local failed = find(A.execution_id)
  if not failed then
    return {'no_execution', A.execution_id}
  end
  job_id = failed.job_id
  birth.repeats = A.execution_id
  if A.same_revision then
    birth.revision, birth.kind, birth.queue = failed.revision, failed.kind, failed.queue
    birth.max_attempts = failed.max_attempts
  end
  birth.state = failed.state
end
local job = find_job(job_id)
if not job then
  return {'no_job', job_id}
elseif birth.state and birth.state ~= 'FAILED' and birth.state ~= 'UNKNOWN' and birth.state ~= 'CANCELLED' then
  return {'not_failed', birth.state}
elseif job.overlap ~= 'allow' and job.exclusive and not A.may_wait then
  return {'overlapping', job_id, job.exclusive, call('HGET', execution_key(job.exclusive), 'state')}
end

-- a UUIDv7 of this moment; the caller made the rest of its bits by chance
local millis = math.floor(now / 1000)
birth.id = string.format('%08x-%04x-', math.floor(millis / 65536), millis % 65536) .. A.random
if once then
  birth.kept_until = now + A.kept
  write(once, {fingerprint = A.fingerprint, resource_id = birth.id, expires_at = birth.kept_until})
  call('PEXPIRE', once, text(math.floor(A.kept / 1000)))
end
local trigger = A.execution_id and 'RETRY_OF' or 'MANUAL'
if insert(job_id, job, birth, 'PENDING', trigger) then
  announce_at(now)
else
  birth.serial = true
  insert(job_id, job, birth, 'WAITING', trigger)
end
announce()
return {'created', shown_execution(birth.id)}
