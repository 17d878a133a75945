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
