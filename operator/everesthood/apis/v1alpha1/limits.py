"""Limits on the starts of runs, the same shape wherever they are set."""

from typing import Annotated

from pydantic import Field

from everesthood.apis.v1alpha1.fields import Model, rules


class Rate(Model):
    """How often runs start."""

    runs: Annotated[
        int, Field(ge=1, le=1_000_000, description="Starts in each period, spread evenly over it.")
    ]
    period_seconds: Annotated[int, Field(ge=1, le=86_400, description="Length of the period.")] = 60
    burst: Annotated[
        int, Field(ge=1, le=100_000, description="Starts at once after a quiet time; those after are spread.")
    ] = 1


class Limits(Model):
    """How many runs may start. A run that a limit keeps back waits; that costs it no attempt."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": rules(
            ("has(self.concurrency) || has(self.rate)", "set concurrency, rate or both"),
        ),
    }

    concurrency: Annotated[int | None, Field(ge=1, le=1_000_000, description="Most runs at once.")] = None
    rate: Annotated[Rate | None, Field(description="How often runs start.")] = None
