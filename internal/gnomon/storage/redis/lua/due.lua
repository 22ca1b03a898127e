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
local old = now - 60000000

local function earliest(low, high, limit, served)
  if not served then
    return call('ZRANGEBYSCORE', PREFIX .. 'due', low, high, 'LIMIT', 0, limit)
  end
  table.sort(served, function(one, other)
    return one.next_run < other.next_run
  end)
  local ids = {}
  for place = 1, math.min(limit, #served) do
    ids[place] = served[place].id
  end
  return ids
end

local served, on_time, behind = served_jobs(), nil, nil
if served then
  on_time, behind = {}, {}
  for _, id in ipairs(served) do
    local next_run = tonumber(call('ZSCORE', PREFIX .. 'due', id) or 'inf')
    if next_run <= now then
      local part = next_run > old and on_time or behind
      part[#part + 1] = {id = id, next_run = next_run}
    end
  end
end
add(earliest('(' .. text(old), text(now), A.limit, on_time), 0)
add(earliest('-inf', text(old), A.behind_limit, behind), 1)
return reply
