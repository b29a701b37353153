-- Health of agents.everesthood.io resources: conditions of this generation, read as kstatus does.
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the controller" }
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local function says(type, value)
  return found[type] ~= nil and found[type].status == value
end
if says("Suspended", "True") then
  return { status = "Suspended", message = found.Suspended.message }
end
if says("Stalled", "True") then
  return { status = "Degraded", message = found.Stalled.message }
end
if says("Ready", "True") then
  return { status = "Healthy", message = found.Ready.message }
end
if says("Ready", "False") and not says("Reconciling", "True") then
  return { status = "Degraded", message = found.Ready.message }
end
return { status = "Progressing", message = found.Ready and found.Ready.message or "Waiting for the controller" }
