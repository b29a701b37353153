-- Takes a worker at its word, or notes that one that leaves holds nothing any more. The update of the wish
-- lets one worker after the other pass, so that never more leave than may.
--   $1 instance   $2 revision   $3 pod   $4 runs it holds   $5 whether it claims nothing any more
--   $6 how long those that hold nothing are preferred, in seconds
with known as (
    update leaver set left_at = case when $4::int > 0 or not $5 then null else coalesce(left_at, now()) end
    where instance_uid = $1 and revision = $2 and pod = $3
    returning 1
), passed as (
    update scale_in set appointed = appointed + 1
    where instance_uid = $1 and revision = $2 and appointed < wanted and not exists (select from known)
      and ($4::int = 0 or (drains and asked_at < now() - $6::float8 * interval '1 second'))
    returning 1
), fresh as (
    insert into leaver (instance_uid, revision, pod) select $1, $2, $3 from passed
    on conflict do nothing
)
select exists (select from known) or exists (select from passed) as leaves
