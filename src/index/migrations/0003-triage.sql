-- What people need beside examinations: what a hub's listing said, what was decided, and one narrow row for each
-- examination to sort and filter by.
--
-- Times are whole seconds since 1970-01-01 UTC.

-- What a hub's listing last said of a repository.
CREATE TABLE listing (
    source    TEXT PRIMARY KEY,            -- repository.source, which may not be examined yet
    downloads INTEGER                      -- of the last 30 days, as the hub counts
              CHECK (downloads >= 0),
    created   INTEGER,                     -- when the repository was made
    family    TEXT,                        -- the architecture, as config.json's model_type spells it
    declared  INTEGER NOT NULL             -- 1 when its name or tags say that refusals were taken out
              CHECK (declared IN (0, 1)),
    seen      INTEGER NOT NULL             -- when this was last heard
) STRICT, WITHOUT ROWID;

-- Decisions of people. Rows are only ever added; each carries a hash over itself and the one before, so that a change
-- made by other means shows.
CREATE TABLE decision (
    key         INTEGER PRIMARY KEY,       -- grows by one
    examination INTEGER NOT NULL           -- what it is about
                REFERENCES examination (key),
    made_at     INTEGER NOT NULL,          -- when
    who         TEXT NOT NULL              -- by whom, as given
                CHECK (who <> ''),
    decision    TEXT NOT NULL              -- what
                CHECK (decision IN ('confirmed', 'dismissed', 'second-look', 'appealed')),
    note        TEXT NOT NULL,             -- why
    chain       TEXT NOT NULL              -- SHA-256 (hex) over the previous row's chain and this row
                CHECK (length(chain) = 64)
) STRICT;
CREATE INDEX decision_by_examination ON decision (examination, key);
CREATE TRIGGER decision_unchanging BEFORE UPDATE ON decision BEGIN
    SELECT raise(ABORT, 'decisions are never changed; add another');
END;
CREATE TRIGGER decision_undeletable BEFORE DELETE ON decision BEGIN
    SELECT raise(ABORT, 'decisions are never deleted; add another');
END;

-- One narrow row for each examination, kept by the triggers below: a list of a million is sorted and filtered here.
CREATE TABLE triage (
    examination INTEGER PRIMARY KEY        -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    candidate   INTEGER NOT NULL,          -- repository.key of the candidate
    base        INTEGER NOT NULL,          -- repository.key of the base
    outcome     TEXT NOT NULL,             -- its verdict, or not-examined when its status is failed
    severity    INTEGER NOT NULL,          -- highest severity of its findings: 0 none to 4 high
    seen        INTEGER NOT NULL,          -- when it was last made
    form        TEXT NOT NULL,             -- the candidate's format, empty where not known
    weights     INTEGER NOT NULL,          -- bytes of the base's files, 0 where not known
    family      TEXT NOT NULL DEFAULT '',  -- listing.family of the candidate
    downloads   INTEGER NOT NULL DEFAULT -1, -- listing.downloads of the candidate, -1 where not known
    created     INTEGER,                   -- listing.created of the candidate
    declared    INTEGER NOT NULL DEFAULT 0, -- listing.declared of the candidate
    decision    TEXT NOT NULL DEFAULT 'open' -- the last decision, open where there is none
) STRICT;
CREATE INDEX triage_by_severity ON triage (severity, seen, examination);
CREATE INDEX triage_by_time ON triage (seen, examination);
CREATE INDEX triage_by_downloads ON triage (downloads, examination);
CREATE INDEX triage_by_outcome ON triage (outcome, severity, seen, examination);
CREATE INDEX triage_by_outcome_and_downloads ON triage (outcome, downloads, examination);
CREATE INDEX triage_by_decision ON triage (decision, severity, seen, examination);
CREATE INDEX triage_by_base ON triage (base, severity, seen, examination);
CREATE INDEX triage_by_family ON triage (family, severity, seen, examination);
CREATE INDEX triage_by_form ON triage (form, severity, seen, examination);
CREATE INDEX triage_by_candidate ON triage (candidate, seen, examination);

-- Where a row of triage comes from.
CREATE VIEW triage_source AS
SELECT e.key AS examination, e.candidate_repository AS candidate, e.base_repository AS base,
       CASE e.status WHEN 'failed' THEN 'not-examined' ELSE e.verdict END AS outcome,
       e.severity AS severity, e.last_seen AS seen, coalesce(c.format, '') AS form,
       coalesce((SELECT sum(f.bytes) FROM side_file f WHERE f.side = e.base), 0) AS weights,
       coalesce(l.family, '') AS family, coalesce(l.downloads, -1) AS downloads, l.created AS created,
       coalesce(l.declared, 0) AS declared,
       coalesce((SELECT d.decision FROM decision d WHERE d.examination = e.key ORDER BY d.key DESC LIMIT 1), 'open')
           AS decision
FROM examination e
JOIN side c ON c.key = e.candidate
JOIN repository r ON r.key = e.candidate_repository
LEFT JOIN listing l ON l.source = r.source;

CREATE TRIGGER triage_added AFTER INSERT ON examination BEGIN
    INSERT INTO triage SELECT * FROM triage_source WHERE examination = new.key;
END;
CREATE TRIGGER triage_judged AFTER UPDATE OF status, verdict, severity, last_seen ON examination BEGIN
    UPDATE triage
    SET outcome = CASE new.status WHEN 'failed' THEN 'not-examined' ELSE new.verdict END,
        severity = new.severity, seen = new.last_seen
    WHERE examination = new.key;
END;
CREATE TRIGGER triage_decided AFTER INSERT ON decision BEGIN
    UPDATE triage SET decision = new.decision WHERE examination = new.examination;
END;
CREATE TRIGGER triage_listed AFTER INSERT ON listing BEGIN
    UPDATE triage
    SET family = coalesce(new.family, ''), downloads = coalesce(new.downloads, -1), created = new.created,
        declared = new.declared
    WHERE candidate = (SELECT key FROM repository WHERE source = new.source);
END;
CREATE TRIGGER triage_listed_again AFTER UPDATE ON listing BEGIN
    UPDATE triage
    SET family = coalesce(new.family, ''), downloads = coalesce(new.downloads, -1), created = new.created,
        declared = new.declared
    WHERE candidate = (SELECT key FROM repository WHERE source = new.source);
END;

INSERT INTO triage SELECT * FROM triage_source;
