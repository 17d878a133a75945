-- What a queue is filtered by beside a verdict: who uploaded, what the candidate is to its base, whether the claim of a base
-- holds. A claim that the weights do not bear out is worth a look without any finding, so it counts as of low severity.
--
-- What triage holds comes from other tables, so it is made anew.

DROP TRIGGER triage_added;
DROP TRIGGER triage_judged;
DROP TRIGGER triage_decided;
DROP TRIGGER triage_listed;
DROP TRIGGER triage_listed_again;
DROP VIEW triage_source;
DROP TABLE triage;

-- One narrow row for each examination, kept by the triggers below: a list of a million is sorted and filtered here.
CREATE TABLE triage (
    examination INTEGER PRIMARY KEY        -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    candidate   INTEGER NOT NULL,          -- repository.key of the candidate
    base        INTEGER NOT NULL,          -- repository.key of the base
    outcome     TEXT NOT NULL,             -- its verdict, or not-examined when its status is failed
    severity    INTEGER NOT NULL,          -- highest severity of its findings, 0 none to 4 high; at least 2 for a false claim
    seen        INTEGER NOT NULL,          -- when it was last made
    form        TEXT NOT NULL,             -- the candidate's format, empty where not known
    weights     INTEGER NOT NULL,          -- bytes of the base's files, 0 where not known
    family      TEXT NOT NULL DEFAULT '',  -- listing.family of the candidate
    downloads   INTEGER NOT NULL DEFAULT -1, -- listing.downloads of the candidate, -1 where not known
    created     INTEGER,                   -- listing.created of the candidate
    declared    INTEGER NOT NULL DEFAULT 0, -- listing.declared of the candidate
    decision    TEXT NOT NULL DEFAULT 'open', -- the last decision, open where there is none
    relation    TEXT NOT NULL,             -- what the candidate is to the base
    claim       TEXT NOT NULL              -- whether the claim of a base holds; none where none was made
                CHECK (claim IN ('holds', 'false', 'not-told', 'none')),
    uploader    TEXT NOT NULL              -- repository.owner of the candidate, empty where not known
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
CREATE INDEX triage_by_relation ON triage (relation, severity, seen, examination);
CREATE INDEX triage_by_claim ON triage (claim, severity, seen, examination);
CREATE INDEX triage_by_uploader ON triage (uploader, severity, seen, examination);

-- Where a row of triage comes from.
CREATE VIEW triage_source AS
SELECT e.key AS examination, e.candidate_repository AS candidate, e.base_repository AS base,
       CASE e.status WHEN 'failed' THEN 'not-examined' ELSE e.verdict END AS outcome,
       max(e.severity, iif(e.claim_base IS NOT NULL AND e.claim_holds IS 0 AND e.status <> 'failed', 2, 0)) AS severity,
       e.last_seen AS seen,
       coalesce(c.format, '') AS form,
       coalesce((SELECT CAST(min(total(f.bytes), 9e18) AS INTEGER) FROM side_file f WHERE f.side = e.base), 0) AS weights,
       coalesce(l.family, '') AS family, coalesce(l.downloads, -1) AS downloads, l.created AS created,
       coalesce(l.declared, 0) AS declared,
       coalesce((SELECT d.decision FROM decision d WHERE d.examination = e.key ORDER BY d.key DESC LIMIT 1), 'open')
           AS decision,
       e.relation AS relation,
       CASE WHEN e.claim_base IS NULL THEN 'none' WHEN e.status = 'failed' OR e.claim_holds IS NULL THEN 'not-told'
            WHEN e.claim_holds = 1 THEN 'holds' ELSE 'false' END AS claim,
       coalesce(r.owner, '') AS uploader
FROM examination e
JOIN side c ON c.key = e.candidate
JOIN repository r ON r.key = e.candidate_repository
LEFT JOIN listing l ON l.source = r.source;

CREATE TRIGGER triage_added AFTER INSERT ON examination BEGIN
    INSERT INTO triage SELECT * FROM triage_source WHERE examination = new.key;
END;
CREATE TRIGGER triage_judged
AFTER UPDATE OF status, verdict, severity, last_seen, relation, claim_holds ON examination BEGIN
    UPDATE triage
    SET (outcome, severity, seen, relation, claim) =
        (SELECT outcome, severity, seen, relation, claim FROM triage_source WHERE examination = new.key)
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
