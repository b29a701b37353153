"""Pure decisions: standard library and `apis` only, the clock passed in."""
