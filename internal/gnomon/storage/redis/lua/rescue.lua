-- R2. The first loss is tried again at once; then each waits for a random while, three times as long after each further
-- loss, so that what ends its workers does not take others along until their attempts are used up.
math.randomseed(A.seed)
local counts = {PENDING = 0, FAILED = 0, UNKNOWN = 0, CANCELLED = 0, PROMOTED = 0}

local function losses(id)
  local times, workers = 0, ''
  for _, entry in ipairs(call('LRANGE', PREFIX .. 'attempts:' .. id, 0, -1)) do
    local attempt = cjson.decode(entry)
    if attempt.outcome == 'LOST' then
      workers = workers .. (times > 0 and ', ' or '') .. (attempt.worker or '')
      times = times + 1
    end
  end
  return times, workers
end

local function delay_of(times, has_room)
  if times == 0 and has_room then
    return 0
  end
  return math.floor(math.random() * math.min(A.spread * 3 ^ (times - (has_room and 1 or 0)), LONGEST_SLOT))
end

local function rescue(id, e)
  local failures, allowed = tonumber(e.failures) + 1, attempts_allowed(e)
  local times, workers = losses(id)
  local message = 'the worker ' .. (e.worker or '') .. ' did not renew its lease'
  if times > 0 then
    message = 'lost ' .. times + 1 .. ' times: the workers ' .. workers .. ', ' .. (e.worker or '')
      .. ' did not renew their leases'
  end
  local changes = {
    failures = failures, lease_owner = false, error_code = 'lost', error_message = left(message, 500),
    response_status = false, response_excerpt = false,
  }
  if e.effect_started_at then
    changes.state = 'UNKNOWN'
  elseif e.cancel_requested_at then
    changes.state = 'CANCELLED'
  elseif failures >= allowed then
    changes.state = 'FAILED'
  else
    call('RPUSH', PREFIX .. 'attempts:' .. id, cjson.encode({
      attempt = tonumber(e.attempt), worker = e.worker, claimed_at = e.claimed_at, finished_at = text(now),
      outcome = 'LOST', error_code = 'lost', error_message = 'the worker did not renew its lease',
    }))
    try_again(id, e, changes, delay_of(times, failures + 1 < allowed))
    return 'PENDING'
  end
  counts.PROMOTED = counts.PROMOTED + (finish(id, e, changes) and 1 or 0)
  return changes.state
end

local ids = call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', '(' .. text(now - A.grace), 'LIMIT', 0, A.limit)
for _, id in ipairs(ids) do
  local e = find(id)
  local duration = now - tonumber(e.claimed_at)
  local state = rescue(id, e)
  counts[state] = counts[state] + 1
  tally(e.kind, state == 'PENDING' and 'lost' or state, duration)
end
for _, job_id in ipairs(call('SRANDMEMBER', PREFIX .. 'doomed', 1)) do
  cancel_open(job_id, A.limit)
end
forget_deleted(now - A.remembered, A.limit)
announce()
return {#ids, counts.PENDING, counts.FAILED, counts.UNKNOWN, counts.CANCELLED, counts.PROMOTED}
