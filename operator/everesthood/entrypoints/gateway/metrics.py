"""What the gateway counts."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

CALLS: Final = Counter(
    "everesthood_gateway_calls", "Calls of workers by route and status.", ["route", "code"]
)
SECONDS: Final = Histogram(
    "everesthood_gateway_call_duration_seconds",
    "Time of a call, by route.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
CLAIMED: Final = Counter("everesthood_gateway_runs_claimed", "Runs handed to workers.")
FINISHED: Final = Counter(
    "everesthood_gateway_runs_handed_in", "Attempts handed in, by outcome.", ["outcome"]
)
LOST: Final = Counter("everesthood_gateway_runs_lost", "Handed-in runs that another attempt held by then.")
DENIED: Final = Counter(
    "everesthood_gateway_claims_denied", "Claims that a limit kept short, by its level.", ["level"]
)
HELD: Final = Counter("everesthood_gateway_credentials_held", "Times that a provider asked to wait.")
OBSERVED: Final = Counter("everesthood_gateway_credentials_observed", "Looks at credentials.", ["reason"])
OBSERVED_AT: Final = Gauge(
    "everesthood_gateway_credentials_observed_timestamp_seconds", "When credentials were last looked at."
)
