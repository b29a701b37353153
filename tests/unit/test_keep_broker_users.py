"""Broker users follow the instances, whatever the broker forgets."""

from hypothesis import given
from hypothesis import strategies as st

from everesthood.adapters.memory.bell import MemoryBell, MemoryBrokerUsers
from everesthood.usecases.keep_broker_users import BrokerUserKeeper, plan_users
from everesthood.usecases.keep_control import keep_control
from everesthood.usecases.ports.record import DueBell, QueueOwner
from everesthood.usecases.repair_bells import repair_bells
from everesthood.usecases.rescue_runs import rescue_runs


class Clock:
    """The record as the scheduler sees it."""

    def __init__(self, *owners: QueueOwner, due: tuple[DueBell, ...] = ()) -> None:
        self.owners = {owner.instance_uid: owner for owner in owners}
        self.due = due
        self.marks = 0
        self.asked: list[float] = []
        self.rescued = {"queued": 2, "dead": 1}

    async def queue_owners(self):
        return list(self.owners.values())

    async def mark_queues(self, ready, gone):
        self.marks += 1
        for uid in ready:
            self.owners[uid] = QueueOwner(instance_uid=uid, wanted=True, ready=True)
        for uid in gone:
            del self.owners[uid]

    async def due_bells(self, older_than_seconds):
        self.asked.append(older_than_seconds)
        return self.due

    async def rescue(self):
        return self.rescued

    async def expire_approvals(self):
        return 2

    async def cancel_stopped(self):
        return 3


def owner(uid: str, *, wanted: bool = True, ready: bool = False) -> QueueOwner:
    return QueueOwner(instance_uid=uid, wanted=wanted, ready=ready)


async def test_a_new_instance_gets_its_user_and_is_told_ready():
    """An instance's queue is ready only after its user exists."""
    clock, users = Clock(owner("a")), MemoryBrokerUsers()

    done = await BrokerUserKeeper(clock=clock, users=users).keep()

    assert users.users == {"a"}
    assert users.has_bell_user
    assert clock.owners["a"].ready
    assert done == {"users_made": 1, "users_removed": 0}


async def test_a_pass_at_rest_changes_nothing():
    """Once all is as it should be, the record is not written again."""
    clock, users = Clock(owner("a")), MemoryBrokerUsers()
    keeper = BrokerUserKeeper(clock=clock, users=users)
    await keeper.keep()

    done = await keeper.keep()

    assert done == {"users_made": 0, "users_removed": 0}
    assert clock.marks == 1


async def test_a_restarted_broker_gets_all_its_users_back():
    """A broker that forgot its users has them again after one pass."""
    clock, users = Clock(owner("a"), owner("b")), MemoryBrokerUsers()
    keeper = BrokerUserKeeper(clock=clock, users=users)
    await keeper.keep()
    users.lose_everything()

    await keeper.keep()

    assert users.users == {"a", "b"}
    assert users.has_bell_user


async def test_a_deleted_instance_loses_its_user_and_is_forgotten():
    """Nothing of a deleted instance is left in the broker, and the record is told."""
    clock, users = Clock(owner("a", wanted=False), owner("b", ready=True)), MemoryBrokerUsers()
    users.users = {"a", "b"}

    await BrokerUserKeeper(clock=clock, users=users).keep()

    assert users.users == {"b"}
    assert set(clock.owners) == {"b"}


async def test_the_first_pass_brings_existing_users_up_to_date():
    """After an upgrade every user has the rights of the new version."""
    clock, users = Clock(owner("a", ready=True)), MemoryBrokerUsers()
    users.users = {"a"}
    keeper = BrokerUserKeeper(clock=clock, users=users)

    assert (await keeper.keep())["users_made"] == 1
    assert (await keeper.keep())["users_made"] == 0


owners = st.lists(
    st.builds(owner, st.sampled_from("abcdef"), wanted=st.booleans(), ready=st.booleans()),
    unique_by=lambda one: one.instance_uid,
)


@given(owners, st.frozensets(st.sampled_from("abcdefgh")), st.booleans())
def test_after_a_pass_exactly_the_wanted_users_exist(everyone, existing, every):
    """Whatever was there before: who is wanted has a user, nobody else, and the record agrees."""
    plan = plan_users(everyone, existing, every=every)

    wanted = {one.instance_uid for one in everyone if one.wanted}
    assert (existing | set(plan.ensure)) - set(plan.remove) == wanted
    assert not set(plan.ensure) & set(plan.remove)
    assert set(plan.mark_ready) <= wanted
    assert set(plan.mark_gone) == {one.instance_uid for one in everyone if not one.wanted}


async def test_due_work_that_nobody_claimed_is_rung_for_again():
    """A lost bell costs time, not work."""
    bell = MemoryBell()
    due = (DueBell(instance_uid="a", revision="r1"), DueBell(instance_uid="b", revision="r2"))

    clock = Clock(due=due)

    done = await repair_bells(clock=clock, bell=bell, older_than_seconds=2)

    assert (done, clock.asked) == ({"bells": 2}, [2])
    assert dict(bell.waiting) == {("a", "r1"): 1, ("b", "r2"): 1}


async def test_rescued_runs_are_counted_by_what_became_of_them():
    """Whoever watches sees how many runs were taken back and how many ended."""
    assert await rescue_runs(clock=Clock(), bell=MemoryBell()) == {"runs_queued": 2, "runs_dead": 1}


async def test_what_people_left_to_the_clock_is_counted():
    """Deadlines that passed and runs that a stop cancels, each by itself."""
    assert await keep_control(clock=Clock()) == {"approvals_expired": 2, "runs_cancelled": 3}


async def test_a_rescued_run_is_rung_for_at_once():
    """A run that waited out a lease does not wait for the repair of bells too; without one nobody is rung."""
    clock, bell = Clock(due=(DueBell(instance_uid="a", revision="r1"),)), MemoryBell()

    await rescue_runs(clock=clock, bell=bell)
    assert (dict(bell.waiting), clock.asked) == ({("a", "r1"): 1}, [0])

    clock.rescued = {"dead": 1}
    await rescue_runs(clock=clock, bell=bell)
    assert clock.asked == [0]
