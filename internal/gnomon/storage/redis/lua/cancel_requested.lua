local reply = {}
for _, token in ipairs(A.tokens) do
  local e = attempt_of(token)
  if e and e.cancel_requested_at then
    reply[#reply + 1] = token.id
  end
end
return reply
