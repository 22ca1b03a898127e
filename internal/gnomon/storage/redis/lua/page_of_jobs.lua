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

for _, member in ipairs(members) do
  local job = fields(job_key(string.sub(member, 18)), {'status', 'type', 'tags', 'name'})
  local fits = (not A.status or A.status == job.status) and (not A.kind or A.kind == job.type)
  local named = not A.name or job.name and string.find(string.lower(job.name), A.name, 1, true)
  if fits and named and (#A.tags == 0 or bears(job.tags)) then
    reply[#reply + 1] = member
  end
end
return reply
