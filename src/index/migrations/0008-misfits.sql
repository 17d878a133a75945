-- A candidate that claims a base and of which nothing could be compared with it (other shapes, another architecture) is
-- neither a claim that holds nor a false one, but the claim is not borne out all the same: it waits for a look as a false
-- one does, or giving another shape to an upload would be the cheapest way out of the queue.

DROP VIEW triage_source;
CREATE VIEW triage_source AS
SELECT e.key AS examination, e.candidate_repository AS candidate, e.base_repository AS base,
       CASE e.status WHEN 'failed' THEN 'not-examined' ELSE e.verdict END AS outcome,
       max(e.severity, iif(e.claim_base IS NOT NULL AND e.status <> 'failed'
                           AND (e.claim_holds IS 0 OR e.relation = 'incomparable'), 2, 0)) AS severity,
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

UPDATE triage SET severity = (SELECT s.severity FROM triage_source s WHERE s.examination = triage.examination)
WHERE relation = 'incomparable';
