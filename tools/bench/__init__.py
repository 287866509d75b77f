"""qstore measured beside other libraries at the same work: see ``python tools/bench --help``."""
