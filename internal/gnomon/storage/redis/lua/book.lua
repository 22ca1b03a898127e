-- D, steps 3 and 4: the executions of each job whose version is the one that was planned, and its next run.
-- Answers the jobs that were booked, and the executions to publish now.
local booked, created = {}, {}

local function give_birth(id, job, birth)
  if insert(id, job, birth, 'PENDING', 'SCHEDULE', SLOT) then
    created[#created + 1] = birth.id
  elseif not (birth.may_wait and insert(id, job, birth, 'WAITING', 'SCHEDULE')) then
    birth.reason, birth.count, birth['until'] = 'overlap', 1, birth.at
    insert(id, job, birth, 'SKIPPED', 'SCHEDULE')
  end
end

for _, planned in ipairs(A.jobs) do
  local job = find_job(planned.id)
  if job and job.version == planned.version then
    booked[#booked + 1] = planned.id
    for _, birth in ipairs(planned.births) do
      give_birth(planned.id, job, birth)
    end
    for _, skip in ipairs(planned.skips) do
      insert(planned.id, job, skip, 'SKIPPED', 'SCHEDULE')
    end
    if planned.hold_reason then
      local held_until = now + 3600000000
      change_job(planned.id, job, {held_until = held_until, hold_reason = planned.hold_reason})
      call('ZREM', PREFIX .. 'due', planned.id)
      call('ZADD', PREFIX .. 'held', text(held_until), planned.id)
    else
      change_job(planned.id, job, {
        next_run = planned.next_run or false, misfires_run = planned.misfires_run, held_until = false,
        hold_reason = false, status = planned.next_run and job.status or 'COMPLETED',
      })
    end
  end
end
return {booked, created}
