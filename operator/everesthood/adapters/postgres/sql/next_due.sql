-- In how many seconds the next run of a queue is due, for queues that have one within $3 seconds. Of each priority
-- the first: so the index of due runs answers, however many runs wait.
with wants as (
    select w.k, w.instance_uid, w.revision,
           coalesce(i.current_revision = w.revision, false) and not i.suspended as takes_new
    from unnest($1::text[], $2::text[]) with ordinality w(instance_uid, revision, k)
    join instance i on i.uid = w.instance_uid and i.deleted_at is null and i.paused_at is null and not i.stopped
), found as (
    select w.k, x.due_at from wants w cross join generate_series(-9, 0) p cross join lateral (
        select r.due_at from run r
        where w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.priority = p
          and r.due_at <= now() + $3::float8 * interval '1 second'
          and (r.expires_at is null or r.expires_at > greatest(now(), r.due_at) or r.started_at is not null)
          and (r.revision is null or r.revision = w.revision)
        order by r.due_at limit 1) x
    union all
    select w.k, x.due_at from wants w cross join generate_series(-9, 0) p cross join lateral (
        select r.due_at from run r
        where not w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.priority = p
          and r.due_at <= now() + $3::float8 * interval '1 second'
          and (r.expires_at is null or r.expires_at > greatest(now(), r.due_at) or r.started_at is not null)
          and r.revision = w.revision
        order by r.due_at limit 1) x
)
select k::int, greatest(extract(epoch from min(due_at) - now()), 0)::float8 as seconds from found group by k
