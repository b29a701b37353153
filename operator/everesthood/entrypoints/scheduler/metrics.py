"""What the scheduler counts."""

from prometheus_client import Counter, Gauge, Histogram

PASSES = Counter("everesthood_duty_passes", "Passes of a duty, by how they ended.", ["duty", "outcome"])
DURATION = Histogram(
    "everesthood_duty_duration_seconds",
    "How long a pass took.",
    ["duty"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 30),
)
LEADING = Gauge("everesthood_duty_leading", "1 while this process leads the duty.", ["duty"])
LAST_SUCCESS = Gauge(
    "everesthood_duty_last_success_timestamp_seconds", "When a pass last succeeded here.", ["duty"]
)
DONE = Counter(
    "everesthood_duty_done",
    "What duties did: runs of schedules, bells rung again, runs rescued, broker users, old rows deleted.",
    ["duty", "what"],
)
