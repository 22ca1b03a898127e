-- C. What an earlier call with the same delivery had claimed, whose reply was lost, comes back as well.
local reply = {}
for _, id in ipairs(A.ids) do
  local e = find(id)
  local mine = e and e.state == 'RUNNING' and e.lease_owner == A.delivery
  if e and e.state == 'PENDING' and tonumber(e.available_at) <= now and not is_deleted(e.job_id) then
    mine = true
    if not e.first_started_at then
      tally(e.kind, 'started')
      local last_run = call('HGET', job_key(e.job_id), 'last_run')
      if not last_run or tonumber(last_run) < tonumber(e.scheduled_at) then
        call('HSET', job_key(e.job_id), 'last_run', e.scheduled_at)
      end
    end
    change(id, e, {
      state = 'RUNNING', attempt = tonumber(e.attempt) + 1, lease_owner = A.delivery, lease_expires_at = now + A.lease,
      claimed_at = now, first_started_at = e.first_started_at or now, worker = A.worker,
    })
  end
  if mine then
    reply[#reply + 1] = {id, text(e.attempt), e.job_id, e.revision, e.failures, e.scheduled_at}
  end
end
return reply
