-- L. Nothing was sent, so no failure is counted. One that was cancelled, or whose job was deleted, ends instead.
local reply = {}
for _, token in ipairs(A.tokens) do
  local e = attempt_of(token)
  if e and not e.effect_started_at then
    reply[#reply + 1] = token.id
    if e.cancel_requested_at or tonumber(e.failures) >= attempts_allowed(e) then
      finish(token.id, e, {state = 'CANCELLED', lease_owner = false, available_at = now + A.delay})
    else
      try_again(token.id, e, {lease_owner = false}, A.delay)
    end
  end
end
announce()
return reply
