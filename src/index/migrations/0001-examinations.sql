-- Examinations, what was measured in them, and what was judged from it.
--
-- Times are whole seconds since 1970-01-01 UTC. A REAL column that is NULL where a number is expected was not a number.
-- Counts above 2^63 - 1 are stored as 2^63 - 1. Words of enumerations are those of docs/examination.md.

-- A place that checkpoints are taken from: a repository on a hub, or a path of a machine.
CREATE TABLE repository (
    key    INTEGER PRIMARY KEY,            -- joined by side, and by whatever later migrations add
    source TEXT NOT NULL UNIQUE,           -- as examinations spell it: hf:owner/name, or the path as given
    hub    TEXT,                           -- the hub's short name (hf, ms, ollama); NULL for a path
    owner  TEXT                            -- the part before the slash on a hub; NULL where there is none
) STRICT;
CREATE INDEX repository_by_owner ON repository (owner) WHERE owner IS NOT NULL;

-- Substring search over repository names (three letters or more).
CREATE VIRTUAL TABLE repository_search USING fts5 (source, content = 'repository', content_rowid = 'key', tokenize = 'trigram');
CREATE TRIGGER repository_added AFTER INSERT ON repository BEGIN
    INSERT INTO repository_search (rowid, source) VALUES (new.key, new.source);
END;
CREATE TRIGGER repository_removed AFTER DELETE ON repository BEGIN
    INSERT INTO repository_search (repository_search, rowid, source) VALUES ('delete', old.key, old.source);
END;

-- One state of one place: the base or the candidate of examinations. Shared by all examinations that saw the same state.
CREATE TABLE side (
    key        INTEGER PRIMARY KEY,        -- joined by examination and side_file
    identity   TEXT NOT NULL UNIQUE        -- SHA-256 (hex) of the side as JSON, so that a state is stored once
               CHECK (length(identity) = 64),
    repository INTEGER NOT NULL            -- where it was
               REFERENCES repository (key),
    revision   TEXT,                       -- the commit, where there is one
    digest     TEXT,                       -- sha256: over the sorted digests and names of the files, where known
    format     TEXT                        -- safetensors, gguf, …
) STRICT;
CREATE INDEX side_by_repository ON side (repository, revision);
CREATE INDEX side_by_digest ON side (digest) WHERE digest IS NOT NULL;

-- The files of a side.
CREATE TABLE side_file (
    side    INTEGER NOT NULL               -- the side
            REFERENCES side (key) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,              -- position in the examination's list, from 0
    name    TEXT NOT NULL,                 -- relative to the top of the repository or folder
    bytes   INTEGER NOT NULL               -- length
            CHECK (bytes >= 0),
    sha256  TEXT,                          -- sha256:…, where known
    PRIMARY KEY (side, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX side_file_by_sha256 ON side_file (sha256) WHERE sha256 IS NOT NULL;

-- A signature catalogue that judged something.
CREATE TABLE catalogue (
    key        INTEGER PRIMARY KEY,        -- joined by examination and catalogue_signature
    hash       TEXT NOT NULL UNIQUE,       -- sha256:… over the signatures' hashes and ids
    first_used INTEGER NOT NULL            -- when it was first seen
) STRICT;

-- A signature's exact text, kept so that an old finding can be explained.
CREATE TABLE signature (
    key  INTEGER PRIMARY KEY,              -- joined by catalogue_signature
    hash TEXT NOT NULL UNIQUE,             -- sha256:… of the text; finding.signature_hash refers to it
    id   TEXT NOT NULL,                    -- the signature's id
    text TEXT NOT NULL                     -- the whole file
) STRICT;
CREATE INDEX signature_by_id ON signature (id);

-- Which signatures a catalogue consists of; empty for a catalogue of which only the hash is known.
CREATE TABLE catalogue_signature (
    catalogue INTEGER NOT NULL             -- the catalogue
              REFERENCES catalogue (key) ON DELETE CASCADE,
    signature INTEGER NOT NULL             -- one of its signatures
              REFERENCES signature (key),
    PRIMARY KEY (catalogue, signature)
) STRICT, WITHOUT ROWID;

-- One examination with its current judgement. The same measurements of the same files are stored once, however often
-- they were made.
CREATE TABLE examination (
    key           INTEGER PRIMARY KEY,     -- joined by everything below; grows with time
    id            TEXT NOT NULL UNIQUE     -- SHA-256 (hex) of what was examined and measured; docs/index.md says how
                  CHECK (length(id) = 64),
    schema        TEXT NOT NULL,           -- the JSON schema's name and version
    tool_version  TEXT NOT NULL,           -- the version of orthoscope that measured
    base          INTEGER NOT NULL         -- the base's state
                  REFERENCES side (key),
    candidate     INTEGER NOT NULL         -- the candidate's state
                  REFERENCES side (key),
    base_repository INTEGER NOT NULL       -- side.repository of the base, repeated for the indices
                  REFERENCES repository (key),
    candidate_repository INTEGER NOT NULL  -- side.repository of the candidate, repeated for the indices
                  REFERENCES repository (key),
    first_seen    INTEGER NOT NULL,        -- when these measurements were first made
    last_seen     INTEGER NOT NULL         -- when they were last made
                  CHECK (last_seen >= first_seen),
    runs          INTEGER NOT NULL         -- how often they were made
                  CHECK (runs >= 1),
    status        TEXT NOT NULL            -- whether all was done
                  CHECK (status IN ('complete', 'partial', 'failed')),
    reason        TEXT,                    -- why not, where not
    depth         TEXT NOT NULL            -- how deep it went
                  CHECK (depth IN ('hashes', 'screen', 'full')),
    tensors       INTEGER NOT NULL,        -- tensors of the base
    compared      INTEGER NOT NULL,        -- of them, compared
    identical     INTEGER NOT NULL,        -- of these, bit-identical
    bytes_read    INTEGER NOT NULL,        -- weight bytes read by the last run
    has_profile   INTEGER NOT NULL         -- 1 when measurements are stored, so that it can be judged again
                  CHECK (has_profile IN (0, 1)),
    has_claim     INTEGER NOT NULL         -- 1 when the publisher's claim was looked for
                  CHECK (has_claim IN (0, 1)),
    claim_base    TEXT,                    -- the claimed base
    claim_relation TEXT,                   -- the claimed relation
    catalogue     INTEGER NOT NULL         -- the catalogue of the current judgement
                  REFERENCES catalogue (key),
    judged_at     INTEGER NOT NULL,        -- when the current judgement was made
    claim_holds   INTEGER                  -- 1 when the weights bear the claim out, 0 when not, NULL when not told
                  CHECK (claim_holds IN (0, 1)),
    relation      TEXT NOT NULL            -- what the candidate is to the base
                  CHECK (relation IN ('identical', 'repackaged', 'recast', 'quantized', 'low-rank-edit', 'edited',
                                      'fine-tuned', 'merged', 'adapter', 'unrelated', 'incomparable')),
    rank          INTEGER,                 -- rank of a low-rank edit
    verdict       TEXT NOT NULL            -- what is said about orthogonalization
                  CHECK (verdict IN ('orthogonalized', 'suspect', 'clear', 'inconclusive')),
    because       TEXT NOT NULL,           -- one sentence: why, and how sure
    severity      INTEGER NOT NULL         -- highest severity of its findings: 0 none, 1 info, 2 low, 3 medium, 4 high
                  CHECK (severity BETWEEN 0 AND 4)
) STRICT;
CREATE INDEX examination_by_time ON examination (last_seen, key);
CREATE INDEX examination_by_severity ON examination (severity, last_seen, key);
CREATE INDEX examination_by_verdict ON examination (verdict, severity, last_seen, key);
CREATE INDEX examination_by_verdict_and_time ON examination (verdict, last_seen, key);
CREATE INDEX examination_by_status ON examination (status, severity, last_seen, key);
CREATE INDEX examination_by_status_and_time ON examination (status, last_seen, key);
CREATE INDEX examination_by_base ON examination (base_repository, severity, last_seen, key);
CREATE INDEX examination_by_candidate ON examination (candidate_repository, last_seen, key);
CREATE INDEX examination_by_base_side ON examination (base);
CREATE INDEX examination_by_candidate_side ON examination (candidate);
CREATE INDEX examination_by_catalogue ON examination (catalogue, key);

-- Tensors that were not compared.
CREATE TABLE not_examined (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    tensor      TEXT NOT NULL,             -- the tensor's name
    reason      TEXT NOT NULL,             -- why
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Oddities of the files.
CREATE TABLE anomaly (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    kind        TEXT NOT NULL,             -- a stable word, e.g. duplicate-tensor
    file        TEXT NOT NULL,             -- the file it is in
    tensor      TEXT,                      -- the tensor it is about, if one
    detail      TEXT NOT NULL,             -- one sentence with the numbers
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX anomaly_by_kind ON anomaly (kind, examination);

-- Evidence on what the candidate derives from, strongest first.
CREATE TABLE claim_evidence (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    place       TEXT NOT NULL,             -- where it stands, e.g. card.base_model
    says        TEXT NOT NULL,             -- what it says
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Evidence on orthogonalization, of the current judgement.
CREATE TABLE orthogonalization (
    examination     INTEGER PRIMARY KEY    -- the examination
                    REFERENCES examination (key) ON DELETE CASCADE,
    p_value         REAL,                  -- largest p that the calibration allows
    consistency     REAL,                  -- median projection consistency, -1 to 1
    explained       REAL,                  -- median share of the change that is explained
    coordinates     TEXT NOT NULL,         -- raw or row-normalised
    directions      INTEGER NOT NULL,      -- directions removed together
    scope           TEXT NOT NULL,         -- global or per-layer
    tensors         INTEGER NOT NULL,      -- writers that fit
    detection_limit REAL                   -- smallest λ that would have been seen
) STRICT;

-- Layers with a writer that fits.
CREATE TABLE orthogonalization_layer (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES orthogonalization (examination) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    layer       INTEGER NOT NULL,          -- the layer, from 0
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- The recovered recipe in words.
CREATE TABLE recipe (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES orthogonalization (examination) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    line        TEXT NOT NULL,             -- one fact
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Strength of the removal for each layer and module.
CREATE TABLE strength (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES orthogonalization (examination) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,          -- position in its list, from 0
    layer       INTEGER NOT NULL,          -- the layer, from 0
    module      TEXT NOT NULL,             -- the canonical module name, e.g. o_proj
    expert      INTEGER,                   -- the expert, where there are several
    lambda      REAL,                      -- λ: 1 removes the direction, 0 leaves it
    stderr      REAL,                      -- its standard error
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Signatures that hold, of the current judgement.
CREATE TABLE finding (
    examination    INTEGER NOT NULL        -- the examination
                   REFERENCES examination (key) ON DELETE CASCADE,
    ordinal        INTEGER NOT NULL,       -- position in its list, from 0
    id             TEXT NOT NULL,          -- short id of this signature in this examination; outlives judging again
    signature      TEXT NOT NULL,          -- the signature's id
    signature_hash TEXT NOT NULL,          -- hash of the signature's text at that time (signature.hash)
    severity       TEXT NOT NULL           -- how serious
                   CHECK (severity IN ('info', 'low', 'medium', 'high')),
    status         TEXT NOT NULL,          -- preview or stable, as the signature was then
    evidence       TEXT NOT NULL           -- JSON: measurement name to value and bounds
                   CHECK (json_valid(evidence)),
    severity_rank  INTEGER NOT NULL        -- 1 info, 2 low, 3 medium, 4 high
                   GENERATED ALWAYS AS (CASE severity WHEN 'high' THEN 4 WHEN 'medium' THEN 3 WHEN 'low' THEN 2 ELSE 1 END)
                   STORED,
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX finding_by_id ON finding (id);
CREATE INDEX finding_by_signature ON finding (signature, examination);

-- Judgements that later ones took the place of.
CREATE TABLE past_judgement (
    examination   INTEGER NOT NULL         -- the examination
                  REFERENCES examination (key) ON DELETE CASCADE,
    ordinal       INTEGER NOT NULL,        -- from 0, oldest first
    catalogue     INTEGER NOT NULL         -- the catalogue that judged
                  REFERENCES catalogue (key),
    verdict       TEXT NOT NULL,           -- its verdict
    relation      TEXT NOT NULL,           -- its relation
    judged_at     INTEGER NOT NULL,        -- when it was made
    superseded_at INTEGER NOT NULL,        -- when another one took its place
    document      TEXT NOT NULL            -- JSON: rank, because, claim_holds, orthogonalization, findings
                  CHECK (json_valid(document)),
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Names of measurements over the whole model.
CREATE TABLE measurement_name (
    key  INTEGER PRIMARY KEY,              -- joined by model_measurement
    name TEXT NOT NULL UNIQUE              -- e.g. projection.consistency
) STRICT;

-- Measurements over the whole model; see the view measurement.
CREATE TABLE model_measurement (
    examination INTEGER NOT NULL           -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    name        INTEGER NOT NULL           -- which measurement
                REFERENCES measurement_name (key),
    value       REAL,                      -- its value
    PRIMARY KEY (examination, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_measurement_by_name ON model_measurement (name, value);

-- Measurements over the whole model with their names.
CREATE VIEW measurement AS
SELECT m.examination AS examination, n.name AS name, m.value AS value
FROM model_measurement m JOIN measurement_name n ON n.key = m.name;

-- Strings that many tensors share: names, modules, dtypes.
CREATE TABLE word (
    key  INTEGER PRIMARY KEY,              -- joined by tensor_measurement
    text TEXT NOT NULL UNIQUE              -- the string
) STRICT;

-- Measurements of one pair of tensors; see the view tensor, which has strings in place of keys.
CREATE TABLE tensor_measurement (
    examination       INTEGER NOT NULL     -- the examination
                      REFERENCES examination (key) ON DELETE CASCADE,
    ordinal           INTEGER NOT NULL,    -- position in the profile, from 0
    name              INTEGER NOT NULL     -- the base's tensor name
                      REFERENCES word (key),
    kind              TEXT NOT NULL        -- what the tensor does
                      CHECK (kind IN ('writer', 'reader', 'embedding', 'head', 'norm', 'router', 'bias', 'other')),
    module            INTEGER NOT NULL     -- the canonical module name
                      REFERENCES word (key),
    layer             INTEGER,             -- the block, from 0
    expert            INTEGER,             -- the expert, from 0
    residual          TEXT                 -- which axis is the residual stream
                      CHECK (residual IN ('rows', 'columns')),
    rows              INTEGER NOT NULL,    -- rows as the base stores them
    columns           INTEGER NOT NULL,    -- columns as the base stores them
    base_dtype        INTEGER NOT NULL     -- the base's dtype
                      REFERENCES word (key),
    candidate_dtype   INTEGER NOT NULL     -- the candidate's dtype or scheme
                      REFERENCES word (key),
    sameness          TEXT NOT NULL        -- how the two compare before any statistics
                      CHECK (sameness IN ('identical', 'recast', 'requantized', 'changed')),
    changed_fraction  REAL,                -- share of elements whose value changed
    zeroed_fraction   REAL,                -- share of elements that were not zero and are now
    base_not_finite   INTEGER NOT NULL,    -- elements of the base that are not finite
    candidate_not_finite INTEGER NOT NULL, -- elements of the candidate that are not finite
    relative_norm     REAL,                -- ‖Δ‖/‖W‖
    max_abs           REAL,                -- max |Δ|
    cosine            REAL,                -- cosine of base and candidate
    scale             REAL,                -- α = ⟨Δ,W⟩/⟨W,W⟩
    scale_explained   REAL,                -- share of ‖Δ‖² explained by one factor for the matrix
    row_scale_explained REAL,              -- … by one factor for each row
    column_scale_explained REAL,           -- … by one factor for each column
    row_norm_drift    REAL,                -- median |norm ratio - 1| of rows
    column_norm_drift REAL,                -- median |norm ratio - 1| of columns
    changed_rows      REAL,                -- share of rows that changed
    rounding          REAL,                -- relative rounding noise that the candidate's dtype explains
    kurtosis          REAL,                -- mean blockwise kurtosis of Δ
    spectrum          TEXT NOT NULL        -- JSON array: energy shares of the largest singular values of Δ
                      CHECK (json_valid(spectrum)),
    effective_rank    REAL,                -- participation ratio of Δ
    above_noise       INTEGER NOT NULL,    -- singular values above the noise edge
    values_known      INTEGER NOT NULL,    -- singular values computed
    low_rank_share    REAL,                -- share of ‖Δ‖² in the values above the noise edge
    cliff             REAL,                -- last value above the edge over the first below it
    last_share        REAL,                -- share of ‖Δ‖² in the last value computed
    noise             REAL,                -- relative size of Δ without them
    fits              INTEGER              -- 1 when it fits a removed direction, 0 when not, NULL when not tried
                      CHECK (fits IN (0, 1)),
    strength          REAL,                -- λ; this and the rest are NULL when not tried
    stderr            REAL,                -- standard error of λ
    consistency       REAL,                -- projection consistency c
    cross_fit         REAL,                -- c for a direction chosen without this data
    explained         REAL,                -- share of ‖Δ‖² that the removal accounts for
    quietness         REAL,                -- energy left along the direction over the mean energy left
    balance           REAL,                -- largest positive over largest negative eigenvalue of the edit
    own_component     REAL,                -- |cosine| of the direction with W times the edit's right vector
    agreement         REAL,                -- |cosine| with the direction of the other layers
    sibling_agreement REAL,                -- |cosine| with the other writers of the layer
    directions        INTEGER,             -- directions that fit in this tensor
    shared_strength   REAL,                -- λ along the direction that the other layers share
    shared_consistency REAL,               -- projection consistency along that direction
    alone             INTEGER              -- 1 when it is a removal by itself that nothing agrees with
                      CHECK (alone IN (0, 1)),
    PRIMARY KEY (examination, ordinal)
) STRICT, WITHOUT ROWID;

-- Measurements of pairs of tensors, readable.
CREATE VIEW tensor AS
SELECT t.examination, t.ordinal, n.text AS name, t.kind, m.text AS module, t.layer, t.expert, t.residual, t.rows, t.columns,
       b.text AS base_dtype, c.text AS candidate_dtype, t.sameness, t.changed_fraction, t.zeroed_fraction,
       t.base_not_finite, t.candidate_not_finite, t.relative_norm, t.max_abs, t.cosine, t.scale, t.scale_explained,
       t.row_scale_explained, t.column_scale_explained, t.row_norm_drift, t.column_norm_drift, t.changed_rows, t.rounding,
       t.kurtosis, t.spectrum, t.effective_rank, t.above_noise, t.values_known, t.low_rank_share,
       t.cliff, t.last_share, t.noise, t.fits, t.strength, t.stderr, t.consistency,
       t.cross_fit, t.explained, t.quietness, t.balance, t.own_component, t.agreement, t.sibling_agreement, t.directions,
       t.shared_strength, t.shared_consistency, t.alone
FROM tensor_measurement t
JOIN word n ON n.key = t.name JOIN word m ON m.key = t.module
JOIN word b ON b.key = t.base_dtype JOIN word c ON c.key = t.candidate_dtype;

-- One line for each examination, with the names that a person asks for first.
CREATE VIEW overview AS
SELECT e.key AS examination, e.id AS id, c.source AS candidate, cs.revision AS revision, b.source AS base, e.verdict AS verdict,
       e.relation AS relation, e.severity AS severity, e.status AS status, e.reason AS reason, e.depth AS depth,
       e.because AS because, datetime(e.last_seen, 'unixepoch') AS examined_at
FROM examination e
JOIN repository c ON c.key = e.candidate_repository JOIN repository b ON b.key = e.base_repository
JOIN side cs ON cs.key = e.candidate;
