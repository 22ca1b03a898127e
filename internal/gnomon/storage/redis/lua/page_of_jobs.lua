-- As page_of_executions, of living jobs.
local members = call('ZREVRANGEBYLEX', PREFIX .. 'jobs', A.max, '-', 'LIMIT', 0, A.scan)
local reply = {#members == A.scan and members[#members] or ''}

local function bears(tags)
  local borne = {}
  for _, tag in ipairs(cjson.decode(tags)) do
    borne[tag] = true
  end
  for _, tag in ipairs(A.tags) do
    if not borne[tag] then
      return false
    end
  end
  return true
end

local function is_due_within(next_run)
  if not next_run then
    return not A.next_run_after and not A.next_run_before
  end
  local moment = tonumber(next_run)
  return (not A.next_run_after or moment >= A.next_run_after) and (not A.next_run_before or moment <= A.next_run_before)
end

for _, member in ipairs(members) do
  local job = fields(job_key(string.sub(member, 18)), {'status', 'type', 'tags', 'name', 'queue', 'next_run'})
  local fits = (not A.status or A.status == job.status) and (not A.kind or A.kind == job.type)
  local named = not A.name or job.name and string.find(string.lower(job.name), A.name, 1, true)
  local placed = (not A.queue or A.queue == job.queue) and is_due_within(job.next_run)
  if fits and named and placed and (#A.tags == 0 or bears(job.tags)) then
    reply[#reply + 1] = member
  end
end
return reply
