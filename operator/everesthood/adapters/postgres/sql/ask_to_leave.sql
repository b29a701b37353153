-- Says how many workers may leave, those that have been taken at their word included. The time stays while
-- the wish stays: it says for how long idle ones have had their chance.
insert into scale_in as s (instance_uid, revision, wanted, drains)
select uid, $2, $3, $4 from instance where uid = $1 and deleted_at is null
on conflict (instance_uid, revision) do update
set wanted = excluded.wanted, drains = excluded.drains,
    asked_at = case when s.wanted > s.appointed and s.drains = excluded.drains then s.asked_at else now() end
where (s.wanted, s.drains) is distinct from (excluded.wanted, excluded.drains)
