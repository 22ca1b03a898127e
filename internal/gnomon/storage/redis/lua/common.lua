-- What every script begins with: the clock, rows, and the one place that moves an execution between its indices.
-- KEYS[1] is {namespace}:clock; every other key begins alike, so all lie in one slot of a cluster. Instants are µs
-- since 1970, exact as doubles until the year 2255, and written without an exponent. `soon`: what to announce at the end.
-- {namespace}:clock is what a test sets the clock with: µs to add to the server's, or, after a "=", the moment it stands at.
local PREFIX = string.sub(KEYS[1], 1, -6)
local A = cjson.decode(ARGV[1])
local call = redis.call

local function clock()
  local time, set = call('TIME'), call('GET', KEYS[1]) or '0'
  if string.sub(set, 1, 1) == '=' then
    return tonumber(string.sub(set, 2))
  end
  return tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(set)
end

local now = clock()
local soon = nil

local SLOT, LONGEST_SLOT = 15000000, 900000000
local ORDER = {WAITING = '0', PENDING = '1', RUNNING = '2'}
local LEGAL = {
  WAITING = {PENDING = true, CANCELLED = true},
  PENDING = {RUNNING = true, CANCELLED = true},
  RUNNING = {PENDING = true, SUCCEEDED = true, FAILED = true, UNKNOWN = true, CANCELLED = true},
}
local EXECUTION = {
  'job_id', 'revision', 'kind', 'queue', 'scheduled_at', 'state', 'attempt', 'failures', 'max_attempts', 'overlap',
  'available_at', 'next_publish_at', 'publish_count', 'published_at', 'lease_owner', 'lease_expires_at',
  'cancel_requested_at', 'effect_started_at', 'claimed_at', 'first_started_at', 'worker', 'kept_until',
}

local function text(value)
  if type(value) == 'number' then
    return string.format('%.0f', value)
  end
  return value
end

local function fields(key, names)
  local values, row = call('HMGET', key, unpack(names)), {}
  for place, name in ipairs(names) do
    if values[place] then
      row[name] = values[place]
    end
  end
  return row
end

-- false removes a field
local function write(key, changes)
  local set, gone = {}, {}
  for name, value in pairs(changes) do
    if value == false then
      gone[#gone + 1] = name
    else
      set[#set + 1] = name
      set[#set + 1] = text(value)
    end
  end
  if #set > 0 then
    call('HSET', key, unpack(set))
  end
  if #gone > 0 then
    call('HDEL', key, unpack(gone))
  end
end

local function job_key(id)
  return PREFIX .. 'job:' .. id
end

local function execution_key(id)
  return PREFIX .. 'execution:' .. id
end

local function find(id)
  local found = fields(execution_key(id), EXECUTION)
  return found.state and found
end

local function attempt_of(token)
  local found = find(token.id)
  return found and found.state == 'RUNNING' and tonumber(found.attempt) == token.attempt and found
end

local function is_deleted(job_id)
  return call('HEXISTS', job_key(job_id), 'deleted_at') == 1
end

-- A deleted job's executions get no further attempt, also those that its deletion has not got to yet.
local function attempts_allowed(e)
  return is_deleted(e.job_id) and 0 or tonumber(e.max_attempts)
end

local function event(job_id, entry)
  entry.at = text(now)
  call('RPUSH', PREFIX .. 'events:' .. job_id, cjson.encode(entry))
  call('LTRIM', PREFIX .. 'events:' .. job_id, -1000, -1)
end

local function announce_at(moment)
  soon = math.min(soon or moment, moment)
end

-- Last of all, and allowed to fail: a script is not rolled back, and the announcement only saves time.
local function announce()
  if soon then
    redis.pcall('PUBLISH', PREFIX .. 'wake', text(soon))
  end
end

local function tally(kind, outcome, duration)
  local field = outcome .. '|%s|' .. kind
  call('HINCRBY', PREFIX .. 'tallies', string.format(field, 'count'), 1)
  if duration then
    local bucket = 0
    for _, bound in ipairs(DURATION_BUCKETS) do
      if bound <= duration then
        bucket = bucket + 1
      end
    end
    call('HINCRBY', PREFIX .. 'tallies', string.format(field, 'sum'), text(duration))
    call('HINCRBY', PREFIX .. 'tallies', string.format(field, bucket), 1)
  end
end

local function forget(job_id, id)
  call('DEL', execution_key(id), PREFIX .. 'attempts:' .. id)
  call('ZREM', PREFIX .. 'finished:' .. job_id, id)
  call('ZREM', PREFIX .. 'history:' .. job_id, id)
  call('ZREM', PREFIX .. 'executions', id)
  call('ZREM', PREFIX .. 'failed', id)
end

-- Whether a moment ran is not known any more once its execution is gone: `pruned_until` is the latest of these.
local function prune(job_id, id)
  local e = fields(execution_key(id), {'trigger', 'scheduled_at'})
  local latest = tonumber(call('HGET', job_key(job_id), 'pruned_until') or '0')
  if (e.trigger == 'SCHEDULE' or e.trigger == 'BACKFILL') and tonumber(e.scheduled_at) > latest then
    call('HSET', job_key(job_id), 'pruned_until', e.scheduled_at)
  end
  forget(job_id, id)
end

-- With each execution that ends up to four go, those first that ended first: history keeps its length. What an
-- Idempotency-Key made counts as ended when the key is over.
local function archive(id, e, state)
  local key = PREFIX .. 'finished:' .. e.job_id
  call('ZADD', key, text(math.max(now, tonumber(e.kept_until or '0'))), id)
  if state == 'FAILED' or state == 'UNKNOWN' then
    call('ZADD', PREFIX .. 'failed', '0', id)
  end
  local excess = call('ZCARD', key) - A.keep
  if excess > 0 then
    for _, old in ipairs(call('ZRANGE', key, 0, math.min(excess, 4) - 1)) do
      if old ~= id then
        prune(e.job_id, old)
      end
    end
  end
end

-- Published: its first message was sent. Repeated: so was a second one, and nobody has claimed it.
local function place(id, e)
  call('ZADD', PREFIX .. 'publish', text(e.next_publish_at), id)
  call('ZADD', PREFIX .. 'publish:' .. e.job_id, text(e.next_publish_at), id)
  local count = tonumber(e.publish_count)
  if count > 0 then
    call('ZADD', PREFIX .. 'published', text(e.published_at), id)
  else
    call('ZREM', PREFIX .. 'published', id)
  end
  if count > 1 then
    call('ZADD', PREFIX .. 'repeated:' .. e.queue, text(e.published_at), id)
  else
    call('ZREM', PREFIX .. 'repeated:' .. e.queue, id)
  end
end

local function take_out(id, e)
  if e.state == 'PENDING' then
    call('ZREM', PREFIX .. 'publish', id)
    call('ZREM', PREFIX .. 'publish:' .. e.job_id, id)
    call('ZREM', PREFIX .. 'published', id)
    call('ZREM', PREFIX .. 'repeated:' .. e.queue, id)
  elseif e.state == 'RUNNING' then
    call('ZREM', PREFIX .. 'leases', id)
  elseif e.state == 'WAITING' and e.overlap == 'queue' then
    call('HDEL', job_key(e.job_id), 'queued')
  end
end

-- `exclusive` of a job is its one active execution that excludes others, `queued` the one that waits for its turn.
local function put_in(id, e)
  local open = PREFIX .. 'open:' .. e.job_id
  if e.state == 'PENDING' then
    place(id, e)
  elseif e.state == 'RUNNING' then
    call('ZADD', PREFIX .. 'leases', text(e.lease_expires_at), id)
  elseif e.state == 'WAITING' and e.overlap == 'queue' then
    call('HSET', job_key(e.job_id), 'queued', id)
  end
  if ORDER[e.state] then
    call('ZADD', open, ORDER[e.state], id)
  else
    call('ZREM', open, id)
    archive(id, e, e.state)
  end
end

-- The one way in which a row changes. The guard is the second wall: the scripts ask before.
local function change(id, e, changes)
  local old = e.state
  local new = changes.state or old
  if old ~= new and not (LEGAL[old] and LEGAL[old][new]) then
    error('execution ' .. id .. ': ' .. old .. ' can not become ' .. new)
  end
  write(execution_key(id), changes)
  if old ~= new then
    take_out(id, e)
  end
  for name, value in pairs(changes) do
    e[name] = value or nil
  end
  if old ~= new then
    put_in(id, e)
    if e.overlap ~= 'allow' and old == 'WAITING' and new == 'PENDING' then
      call('HSET', job_key(e.job_id), 'exclusive', id)
    elseif e.overlap ~= 'allow' and old ~= 'WAITING' and not ORDER[new] then
      call('HDEL', job_key(e.job_id), 'exclusive')
    end
  elseif new == 'PENDING' then
    place(id, e)
  elseif new == 'RUNNING' and changes.lease_expires_at then
    call('ZADD', PREFIX .. 'leases', text(e.lease_expires_at), id)
  end
end

-- Where the active execution of a job has ended, the oldest that waits is due.
local function promote(job_id)
  local first = call('ZRANGEBYSCORE', PREFIX .. 'open:' .. job_id, '0', '0', 'LIMIT', 0, 1)[1]
  if not first or is_deleted(job_id) then
    return false
  end
  change(first, find(first), {state = 'PENDING', available_at = now, next_publish_at = now, publish_count = 0})
  announce_at(now)
  return true
end

local function try_again(id, e, changes, delay)
  changes.state = 'PENDING'
  changes.available_at = now + delay
  changes.next_publish_at = now + delay
  changes.publish_count = 0
  changes.lease_expires_at = false
  change(id, e, changes)
  announce_at(now + delay)
end

-- Whether the end made another one due.
local function finish(id, e, changes)
  changes.finished_at = now
  changes.lease_expires_at = false
  local was_active = e.state ~= 'WAITING'
  change(id, e, changes)
  return was_active and e.overlap ~= 'allow' and promote(e.job_id)
end

local JOB = {
  'type', 'queue', 'status', 'revision', 'version', 'overlap', 'max_attempts', 'next_run', 'exclusive', 'queued', 'name',
  'created_at', 'deleted_at', 'paused_until',
}

local function find_job(id)
  local job = fields(job_key(id), JOB)
  return job.revision and not job.deleted_at and job
end

-- Creates an execution unless its id, or another execution of its job, is in its way.
local function insert(job_id, job, birth, state, trigger, slot)
  local id = birth.id
  local overlap = (birth.serial and job.overlap ~= 'allow') and 'serial' or job.overlap
  if state == 'PENDING' and overlap ~= 'allow' and job.exclusive then
    return false
  elseif state == 'WAITING' and overlap == 'queue' and job.queued then
    return false
  elseif call('EXISTS', execution_key(id)) == 1 then
    return false
  end
  local available_at = birth.available_at or birth.at
  local e = {
    job_id = job_id, revision = birth.revision or job.revision, kind = birth.kind or job.type,
    queue = birth.queue or job.queue, scheduled_at = birth.at, trigger = trigger, repeats = birth.repeats, state = state,
    attempt = 0, failures = 0, max_attempts = birth.max_attempts or job.max_attempts, overlap = overlap,
    available_at = available_at, publish_count = 0, created_at = now, skipped_count = 0, kept_until = birth.kept_until,
  }
  if state == 'PENDING' then
    e.next_publish_at = slot and now + slot or available_at
    e.publish_count = slot and 1 or 0
    e.published_at = slot and now or nil
    if overlap ~= 'allow' then
      job.exclusive = id
      call('HSET', job_key(job_id), 'exclusive', id)
    end
  elseif state == 'WAITING' and overlap == 'queue' then
    job.queued = id
  elseif state == 'SKIPPED' then
    e.finished_at = now
    e.error_code = birth.reason
    e.skipped_count = birth.count
    e.skipped_until = birth['until']
  end
  write(execution_key(id), e)
  call('ZADD', PREFIX .. 'executions', '0', id)
  call('ZADD', PREFIX .. 'history:' .. job_id, '0', id)
  put_in(id, e)
  return true
end

local function place_job(id, job)
  call('ZREM', PREFIX .. 'held', id)
  if job.status == 'RUNNING' and job.next_run then
    call('ZADD', PREFIX .. 'due', text(job.next_run), id)
  else
    call('ZREM', PREFIX .. 'due', id)
  end
  if job.status == 'STOPPED' and job.paused_until then
    call('ZADD', PREFIX .. 'resume', text(job.paused_until), id)
  else
    call('ZREM', PREFIX .. 'resume', id)
  end
end

-- Every change of a job raises its version: what was decided for another one is not written.
local function change_job(id, job, changes)
  write(job_key(id), changes)
  call('HINCRBY', job_key(id), 'version', 1)
  for name, value in pairs(changes) do
    job[name] = value or nil
  end
  place_job(id, job)
end

-- Jobs whose hold is over can be dispatched again.
local function end_holds(limit)
  for _, id in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'held', '-inf', text(now), 'LIMIT', 0, limit)) do
    place_job(id, fields(job_key(id), JOB))
  end
end

-- The living jobs of A.names, where a process serves only these: nil where it serves all.
local function served_jobs()
  if not A.names then
    return nil
  end
  local ids = {}
  for start = 1, #A.names, 1000 do
    local part = call('HMGET', PREFIX .. 'names', unpack(A.names, start, math.min(start + 999, #A.names)))
    for _, id in ipairs(part) do
      if id then
        ids[#ids + 1] = id
      end
    end
  end
  return ids
end

local function job_member(id, created_at)
  return string.format('%016.0f:', tonumber(created_at)) .. id
end

-- All of a row and what belongs to it, for a reply.
local function shown_execution(id)
  local row = call('HGETALL', execution_key(id))
  return #row > 0 and {id, row, call('LRANGE', PREFIX .. 'attempts:' .. id, 0, -1)}
end

local function shown_job(id)
  local row = call('HGETALL', job_key(id))
  local revision = call('HGET', job_key(id), 'revision')
  local running = call('ZREVRANGEBYSCORE', PREFIX .. 'open:' .. id, '2', '2', 'LIMIT', 0, 1)[1]
  local lease = running and call('HMGET', execution_key(running), 'worker', 'lease_expires_at') or {}
  return {id, row, call('HGET', PREFIX .. 'revisions:' .. id, revision), lease}
end

-- Cancels what has not begun, as far as there is room for it in one call; what runs gets no further attempt.
local function cancel_open(job_id, limit)
  local open = PREFIX .. 'open:' .. job_id
  for _, id in ipairs(call('ZRANGEBYSCORE', open, '0', '1', 'LIMIT', 0, limit)) do
    change(id, find(id), {state = 'CANCELLED', finished_at = now})
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', open, '2', '2', 'LIMIT', 0, limit)) do
    call('HSET', execution_key(id), 'max_attempts', '0')
  end
  local left = call('ZCOUNT', open, '0', '1')
  call(left > 0 and 'SADD' or 'SREM', PREFIX .. 'doomed', job_id)
  return left
end

-- What was deleted long ago goes with its history, as much of it as there is room for in one call.
local function forget_deleted(before, limit)
  for _, job_id in ipairs(call('ZRANGEBYSCORE', PREFIX .. 'deleted', '-inf', text(before), 'LIMIT', 0, 1)) do
    for _, id in ipairs(call('ZRANGE', PREFIX .. 'finished:' .. job_id, 0, limit - 1)) do
      forget(job_id, id)
    end
    if call('EXISTS', PREFIX .. 'history:' .. job_id) == 0 then
      call('DEL', job_key(job_id), PREFIX .. 'revisions:' .. job_id, PREFIX .. 'events:' .. job_id)
      call('ZREM', PREFIX .. 'deleted', job_id)
    else
      call('ZADD', PREFIX .. 'deleted', text(before + 1), job_id)
    end
  end
end

-- `limit` bytes at most, and no half character at the end.
local function left(value, limit)
  if #value <= limit then
    return value
  end
  while limit > 0 and string.byte(value, limit + 1) >= 128 and string.byte(value, limit + 1) < 192 do
    limit = limit - 1
  end
  return string.sub(value, 1, limit)
end
