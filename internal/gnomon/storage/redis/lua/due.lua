-- D, steps 0 and 1: pauses and holds that are over end; the due jobs, as far as a batch goes. Nothing is locked: `book`
-- checks that a job is still as it was read here.
for _, id in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'resume', '-inf', text(now), 'LIMIT', 0, A.limit)) do
  local job = fields(job_key(id), JOB)
  event(id, {action = 'RESUMED', revision = tonumber(job.revision), owed_from = job.paused_until})
  change_job(id, job, {status = 'RUNNING', pause_reason = false, paused_until = false, updated_at = now})
end
end_holds(A.limit)

local reply = {text(now)}
local function add(ids, is_behind)
  for _, id in ipairs(ids) do
    local row = call(
      'HMGET', job_key(id), 'version', 'revision', 'queue', 'overlap', 'next_run', 'misfires_run', 'timing'
    )
    reply[#reply + 1] = {id, is_behind, row}
  end
end
local old = text(now - 60000000)
add(call('ZRANGEBYSCORE', PREFIX .. 'due', '(' .. old, text(now), 'LIMIT', 0, A.limit), 0)
add(call('ZRANGEBYSCORE', PREFIX .. 'due', '-inf', old, 'LIMIT', 0, A.behind_limit), 1)
return reply
