local reply = {}
for _, id in ipairs(A.ids) do
  if find_job(id) then
    reply[#reply + 1] = shown_job(id)
  end
end
return reply
