local reply = {}
for _, id in ipairs(A.ids) do
  local e = find(id)
  if e and e.state == 'PENDING' then
    reply[#reply + 1] = {id, e.job_id, e.revision}
  end
end
return reply
