-- After a lost reply: these were recorded before, by us.
local reply = {}
for _, outcome in ipairs(A.records) do
  local e = find(outcome.id)
  if e and tonumber(e.attempt) == outcome.attempt and e.lease_owner == outcome.owner and e.state ~= 'RUNNING' then
    reply[#reply + 1] = outcome.id
  end
end
return reply
