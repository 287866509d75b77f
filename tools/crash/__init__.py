"""The fault suite for writing: what may happen to a build, and what must be true afterwards."""
