-- Where a checkpoint comes from is told by its weights: what each known one is known by.

-- A fingerprint of one state of a place (src/kinship/); a later one of the same state takes its place.
CREATE TABLE fingerprint (
    key      INTEGER PRIMARY KEY,          -- its number
    source   TEXT NOT NULL,                -- the place: hf:owner/name, ms:…, local:… or a path, as repository.source
    revision TEXT NOT NULL,                -- its commit, empty where there is none
    role     TEXT NOT NULL                 -- what it was when it was enrolled; a base stays one
             CHECK (role IN ('base', 'candidate')),
    version  INTEGER NOT NULL,             -- the version of fingerprints; those of other versions are not compared
    sha256   TEXT NOT NULL                 -- SHA-256 (hex) of data
             CHECK (length(sha256) = 64),
    data     BLOB NOT NULL,                -- the fingerprint, at most 64 kB; src/kinship/fingerprint.rs says how
    enrolled INTEGER NOT NULL,             -- when it was enrolled last
    UNIQUE (source, revision)
) STRICT;
