-- W. A retry of an execution whose cancellation was asked, or whose row allows no further attempt, ends instead.
local reply = {}

local function verdict(e, outcome, failures)
  if outcome.state ~= 'PENDING' then
    return outcome.state
  elseif e.cancel_requested_at then
    return 'CANCELLED'
  end
  return failures >= attempts_allowed(e) and 'FAILED' or 'PENDING'
end

for _, outcome in ipairs(A.records) do
  local id = outcome.id
  local e = attempt_of(outcome)
  if e then
    local failures = tonumber(e.failures) + (outcome.failed and 1 or 0)
    local state = verdict(e, outcome, failures)
    local changes = {
      failures = failures, error_code = outcome.error_code or false, error_message = outcome.error_message or false,
      response_status = outcome.response_status or false, response_excerpt = outcome.response_excerpt or false,
    }
    reply[#reply + 1] = id
    tally(e.kind, state == 'PENDING' and 'retried' or state, outcome.duration)
    if state == 'PENDING' then
      call('RPUSH', PREFIX .. 'attempts:' .. id, cjson.encode({
        attempt = outcome.attempt, worker = e.worker, claimed_at = e.claimed_at, finished_at = text(now),
        outcome = 'FAILED', error_code = outcome.error_code, error_message = outcome.error_message,
        response_status = outcome.response_status,
      }))
      changes.effect_started_at = false
      try_again(id, e, changes, outcome.delay)
    else
      changes.state = state
      finish(id, e, changes)
    end
  end
end
announce()
return reply
