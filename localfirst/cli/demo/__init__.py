"""`localfirst demo`: one conversation on two replicas, through an outage, with what each call took."""
