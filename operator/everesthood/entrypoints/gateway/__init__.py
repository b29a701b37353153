"""The workers' only door: claim, hand in, renew, and borrow a credential."""
