local reply = {}
for _, token in ipairs(A.tokens) do
  local e = attempt_of(token)
  if e then
    change(token.id, e, {lease_expires_at = now + A.lease})
    reply[#reply + 1] = token.id
  end
end
return reply
