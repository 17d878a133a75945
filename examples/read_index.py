"""Reads an index with Python's own sqlite3: verdicts for each base, what was removed how strongly, λ layer by layer.

    python3 examples/read_index.py orthoscope-demo.db [EXAMINATION]

Nothing has to be installed. With pandas there, the strengths are printed as a table of layers against modules. The tables
and what is promised of them are in docs/index.md; the file is opened read-only, also while a sweep writes into it.
"""

import pathlib
import sqlite3
import sys

try:
    import pandas
except ImportError:
    pandas = None


def opened(path):
    """The index, to read only. A path is part of an address here, so it is escaped as one."""
    try:
        index = sqlite3.connect(f"{pathlib.Path(path).resolve().as_uri()}?mode=ro", uri=True)
        [application] = index.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error as error:
        sys.exit(f"{path}: {error}")
    if application != 0x6F727468:
        sys.exit(f"{path} is no index of orthoscope")
    index.row_factory = sqlite3.Row
    return index


def verdicts(index):
    """How many uploads of each base came out how; what could not be examined has no verdict."""
    return index.execute(
        """SELECT base, CASE status WHEN 'failed' THEN 'not examined' ELSE verdict END AS outcome, count(*) AS uploads
           FROM overview GROUP BY base, outcome ORDER BY base, uploads DESC, outcome"""
    ).fetchall()


def removals(index):
    """Every upload in which a removal was found, with the limit below which it would not have been."""
    # λ is stored for any change that was measured: without the verdict, a histogram of it shows removals that are none.
    return index.execute(
        """SELECT o.id, o.candidate, min(s.lambda) AS weakest, max(s.lambda) AS strongest, g.detection_limit AS detectable
           FROM overview o JOIN strength s USING (examination) JOIN orthogonalization g USING (examination)
           WHERE o.verdict = 'orthogonalized' AND s.lambda <> 0
           GROUP BY o.examination ORDER BY o.candidate, o.id"""
    ).fetchall()


def strengths(index, examination):
    """λ of one examination: layer, module, strength and its standard error."""
    return index.execute(
        """SELECT s.layer, s.module, s.lambda, s.stderr FROM strength s JOIN examination e ON e.key = s.examination
           WHERE e.id = ? ORDER BY s.module, s.layer""",
        [examination],
    ).fetchall()


def main(path, examination=None):
    index = opened(path)
    print("verdicts")
    for row in verdicts(index):
        print(f"  {row['uploads']:5}  {row['outcome']:<15}  against {row['base'] or 'no base'}")
    found = removals(index)
    print("removals")
    for row in found:
        print(f"  {row['id'][:12]}  λ {row['weakest']:.2f} to {row['strongest']:.2f}  {row['candidate']}")
    if examination is None and found:
        examination = found[0]["id"]
    rows = strengths(index, examination) if examination else []
    if not rows:
        return
    print(f"strength in {examination[:12]}")
    if pandas is None:
        for row in rows:
            print(f"  layer {row['layer']:3}  {row['module']:<12}  λ {row['lambda']:.3f} ± {row['stderr']:.1e}")
    else:
        frame = pandas.DataFrame([dict(row) for row in rows])
        print(frame.pivot(index="layer", columns="module", values="lambda").round(3).to_string())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
