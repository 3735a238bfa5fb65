"""The training loop and what rides on it."""

import os

# Before torch loads its thread pool: threads that wait should sleep, not spin. On two cores shared with anything else (the
# app, a browser) spinning took 1.4 to 2.4 times as long a step (demo shape, measured in alternation).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
