-- Calls of workers that hand nothing in, which is what a worker says that was idle: `work` plans three times
-- as long as this runs.
with
-- include: claims
order by 1, 9, 10, 2
