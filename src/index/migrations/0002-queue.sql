-- The sweep's queue: one row per repository and base, with its state, so that a sweep that was killed goes on where it
-- was and a sweep with nothing new fetches nothing.

CREATE TABLE sweep_queue (
    hub          TEXT NOT NULL,            -- short name of the hub: hf, ms, local
    repository   TEXT NOT NULL,            -- the hub's own name of the repository
    base         TEXT NOT NULL,            -- the base asked for, hub prefix and all; empty: whatever the repository claims
    listed       TEXT NOT NULL,            -- commit (or its stand-in) at the last listing
    facts        TEXT NOT NULL,            -- what the listing said, as JSON
    state        TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'done')), -- queued: waiting; leased: being worked on; done: ended
    attempts     INTEGER NOT NULL DEFAULT 0, -- leases of this commit that did not end in an outcome
    not_before   INTEGER NOT NULL DEFAULT 0, -- seconds since 1970; a queued row rests until then
    leased_until INTEGER NOT NULL DEFAULT 0, -- seconds since 1970; a lease that is over may be taken again
    examined     TEXT,                     -- what the last outcome was of: commit, depth, tool version, one a line
    outcome      TEXT,                     -- verdict, or the kind of failure
    passing      INTEGER NOT NULL DEFAULT 0 CHECK (passing IN (0, 1)), -- a failure that another night may not meet
    reason       TEXT,                     -- in words, for failures
    first_seen   INTEGER NOT NULL,         -- seconds since 1970
    changed      INTEGER NOT NULL,         -- seconds since 1970: the row's last change
    PRIMARY KEY (hub, repository, base)
) STRICT, WITHOUT ROWID;

CREATE INDEX sweep_queue_by_state ON sweep_queue (state, not_before, attempts);

-- One row per run of a sweep, for reports and for the next run's bounds.
CREATE TABLE sweep_run (
    id           INTEGER PRIMARY KEY,      -- in the order of their beginning
    started      INTEGER NOT NULL,         -- seconds since 1970
    ended        INTEGER,                  -- null: still running, or killed
    plan         TEXT NOT NULL,            -- what was asked for, as JSON
    summary      TEXT                      -- the summary printed at the end, as JSON
) STRICT;
