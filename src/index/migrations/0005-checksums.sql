-- What a faulty disk or a foreign hand changes inside a row is found when it is read.

-- Of each examination, a hash over all its rows; none of those that were last written under an earlier schema.
CREATE TABLE checksum (
    examination INTEGER PRIMARY KEY        -- the examination
                REFERENCES examination (key) ON DELETE CASCADE,
    sha256      TEXT NOT NULL              -- SHA-256 (hex) over columns and values; src/index/checksum.rs says how
                CHECK (length(sha256) = 64)
) STRICT;
