-- The chosen moments that have no execution, or none but a SKIPPED one; unless it is only asked for, an execution each.
local job = find_job(A.job_id)
if not job then
  return 'not_found'
elseif job.version ~= A.version then
  return 'changed'
end
local history = PREFIX .. 'history:' .. A.job_id

local pruned_until = tonumber(call('HGET', job_key(A.job_id), 'pruned_until') or '0')

local function is_booked(birth)
  if birth.at <= pruned_until then
    return true
  end
  for _, id in ipairs(call('ZRANGEBYLEX', history, '[' .. birth.first_id, '[' .. birth.last_id)) do
    local e = fields(execution_key(id), {'scheduled_at', 'trigger', 'state'})
    local counts = e.trigger == 'SCHEDULE' or e.trigger == 'BACKFILL'
    if counts and e.state ~= 'SKIPPED' and tonumber(e.scheduled_at) == birth.at then
      return true
    end
  end
  return false
end

local moments, births = {}, {}
for _, birth in ipairs(A.births) do
  if not is_booked(birth) then
    birth.available_at = now + A.pace * #births
    moments[#moments + 1] = text(birth.at)
    births[#births + 1] = birth
  end
end
if not A.dry_run and #births > 0 then
  for _, birth in ipairs(births) do
    if not insert(A.job_id, job, birth, 'PENDING', 'BACKFILL') then
      insert(A.job_id, job, birth, 'WAITING', 'BACKFILL')
    end
  end
  announce_at(now)
  announce()
end
return moments
