-- What an upload brings beside its weights, held against the base's.

-- JSON, as docs/examination.md describes `surroundings`; NULL where it was not compared.
ALTER TABLE examination ADD COLUMN surroundings TEXT;
