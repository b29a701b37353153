-- Outputs of steps $4 of a run that instance $3 holds with fence $2: those that fit into $5 bytes, at least one.
select name, output::text as output from (
    select s.name, s.output, s.seq, s.size, sum(s.size) over (order by s.seq) as sum
    from step s join run r on r.id = s.run_id
    where r.id = $1::uuid and r.fence = $2::int and r.instance_uid = $3 and r.state = 1
      and s.name = any ($4::text[])) s
where sum = size or sum <= $5::int
order by seq
