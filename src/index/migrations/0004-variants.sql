-- Repositories that hold several checkpoints: one examination of the whole, with one row here for each variant.

-- Which of a repository's variants a side is (Q4_K_M, pytorch_model.bin); NULL where it is all there is, or the whole.
ALTER TABLE side ADD COLUMN variant TEXT;

-- The variants of an examination, in the order in which they were looked at. The examination's own measurements are those
-- of the variant that decides.
CREATE TABLE variant (
    examination     INTEGER NOT NULL       -- the examination of the whole
                    REFERENCES examination (key) ON DELETE CASCADE,
    ordinal         INTEGER NOT NULL,      -- position in its list, from 0
    name            TEXT NOT NULL,         -- the quantisation of a GGUF file, otherwise its path without part numbers
    format          TEXT,                  -- safetensors, gguf, …
    status          TEXT NOT NULL          -- whether all of it was examined
                    CHECK (status IN ('complete', 'partial', 'failed')),
    depth           TEXT NOT NULL          -- how deep
                    CHECK (depth IN ('hashes', 'screen', 'full')),
    relation        TEXT NOT NULL,         -- what it is to the base
    verdict         TEXT NOT NULL          -- what is said of it alone
                    CHECK (verdict IN ('orthogonalized', 'suspect', 'clear', 'inconclusive')),
    because         TEXT NOT NULL,         -- one sentence: why, and how sure
    strength        REAL,                  -- median λ over its layers, NULL where none was measured
    detection_limit REAL,                  -- smallest λ that would have been seen, NULL where not known
    record          BLOB NOT NULL,         -- its whole examination as CBOR (RFC 8949), with all measurements
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX variant_by_verdict ON variant (verdict, format);

-- Lengths that files only claim can add up to more than an integer holds.
DROP VIEW triage_source;
CREATE VIEW triage_source AS
SELECT e.key AS examination, e.candidate_repository AS candidate, e.base_repository AS base,
       CASE e.status WHEN 'failed' THEN 'not-examined' ELSE e.verdict END AS outcome,
       e.severity AS severity, e.last_seen AS seen, coalesce(c.format, '') AS form,
       coalesce((SELECT CAST(min(total(f.bytes), 9e18) AS INTEGER) FROM side_file f WHERE f.side = e.base), 0) AS weights,
       coalesce(l.family, '') AS family, coalesce(l.downloads, -1) AS downloads, l.created AS created,
       coalesce(l.declared, 0) AS declared,
       coalesce((SELECT d.decision FROM decision d WHERE d.examination = e.key ORDER BY d.key DESC LIMIT 1), 'open')
           AS decision
FROM examination e
JOIN side c ON c.key = e.candidate
JOIN repository r ON r.key = e.candidate_repository
LEFT JOIN listing l ON l.source = r.source;
