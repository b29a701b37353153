-- The last row that a walk looked at, if there may be more behind it.
select id::text as id from ({walk}) walked
where coalesce($2::text, $6::text) is null or true
order by id desc offset $5 - 1 limit 1
