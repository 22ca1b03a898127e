-- S. Only what comes back may be sent.
local reply = {}
for _, token in ipairs(A.tokens) do
  local e = attempt_of(token)
  if e and e.lease_owner == A.delivery and tonumber(e.lease_expires_at) > now + A.margin then
    change(token.id, e, {effect_started_at = now})
    reply[#reply + 1] = token.id
  end
end
return reply
