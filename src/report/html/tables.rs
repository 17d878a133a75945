//! The tables of a dossier, each in a region that scrolls by itself.

use maud::{Markup, html};

use super::{class, meaning};
use crate::examination::Side;
use crate::index::decision::Decision;
use crate::report::evidence::{Clause, Considered, LookAlike};
use crate::report::oddities::GroupedOddity;
use crate::report::variants::Line;
use crate::report::words::{self, Told, number, strength};
use crate::report::{chart, plot, sanitise};

/// Rows of a long table shown; the JSON has them all.
pub(super) const ROWS: usize = 400;

/// A table that scrolls by itself where it is wider than the page; by keyboard too, so it can be focused and has a
/// name.
pub fn scroll(label: &str, table: Markup) -> Markup {
    html! { div class="scroll" tabindex="0" role="region" aria-label=(label) { (table) } }
}

/// What stands under a table or list that was cut short.
pub(super) fn more(all: usize) -> Markup {
    html! { @if all > ROWS { p class="quiet" { "and " (all - ROWS) " more; the JSON has them all" } } }
}

/// The checkpoints of a repository, one a row.
pub(super) fn variants(lines: &[Line]) -> Markup {
    scroll(
        "Variants examined",
        html! {
            table {
                thead { tr {
                    th scope="col" { "file or quantisation" } th scope="col" { "format" } th scope="col" { "verdict" }
                    th scope="col" { "relation" } th scope="col" { "strength and limit, or why not" }
                } }
                tbody {
                    @for line in lines.iter().take(ROWS) {
                        tr {
                            th scope="row" class="long" { (line.name) }
                            td class="keep" { (line.format) }
                            td { span class={ "word " (class(line.verdict)) } { (line.verdict) } }
                            td class="keep" { (line.relation) }
                            td class="long" { (line.detail) }
                        }
                    }
                }
            }
        },
    )
}

/// Strength by layer and module.
pub(super) fn strengths(series: &[plot::Series]) -> Markup {
    let layers: std::collections::BTreeSet<u32> = series.iter().flat_map(|s| s.points.keys().copied()).collect();
    html! {
        details {
            summary { "The numbers: λ by layer" }
            (scroll("λ by layer", html! {
                table {
                    caption { "Estimated λ ± standard error" }
                    thead { tr { th class="n" scope="col" { "layer" } @for s in series { th class="n" scope="col" { (s.module) } } } }
                    tbody {
                        @for layer in layers.iter().take(ROWS) {
                            tr {
                                th class="n" scope="row" { (layer) }
                                @for s in series {
                                    td class="n" {
                                        @match s.points.get(layer) {
                                            Some((lambda, stderr)) if *lambda == 0.0 => { (plot::nothing(*stderr)) },
                                            Some((lambda, stderr)) => { (strength(*lambda)) " ± " (strength(*stderr)) },
                                            None => "–",
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// Relative change by module.
pub(super) fn changes(rows: &[chart::HeatRow]) -> Markup {
    html! {
        details {
            summary { "The numbers: relative change by module" }
            (scroll("Relative change by module", html! {
                table {
                    caption { "Largest and median ‖Δ‖/‖W‖ over layers" }
                    thead { tr {
                        th scope="col" { "module" } th scope="col" { "part" }
                        th class="n" scope="col" { "layers" } th class="n" scope="col" { "changed" }
                        th class="n" scope="col" { "median of changed" } th class="n" scope="col" { "largest" }
                    } }
                    tbody {
                        @for row in rows.iter().take(ROWS) {
                            @let changed = row.changes();
                            tr {
                                th scope="row" { (row.module) }
                                td { (format!("{:?}", row.kind).to_lowercase()) }
                                td class="n" { (row.cells.len()) }
                                td class="n" { (changed.len()) }
                                td class="n" { (changed.get(changed.len() / 2).map_or("–".to_owned(), |v| number(*v))) }
                                td class="n" { (changed.last().map_or("–".to_owned(), |v| number(*v))) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// Agreement of directions by module.
pub(super) fn agreements(series: &[plot::Series]) -> Markup {
    html! {
        details {
            summary { "The numbers: agreement by module" }
            (scroll("Agreement by module", html! {
                table {
                    thead { tr {
                        th scope="col" { "module" } th class="n" scope="col" { "layers" }
                        th class="n" scope="col" { "lowest" } th class="n" scope="col" { "highest" }
                    } }
                    tbody {
                        @for s in series.iter().take(ROWS) {
                            @let values: Vec<f64> = s.points.values().map(|p| p.0).collect();
                            tr {
                                th scope="row" { (s.module) }
                                td class="n" { (values.len()) }
                                td class="n" { (format!("{:.3}", values.iter().copied().fold(1.0, f64::min))) }
                                td class="n" { (format!("{:.3}", values.iter().copied().fold(0.0, f64::max))) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// The clauses of a signature that holds, with their numbers.
pub(super) fn clauses(clauses: &[Clause]) -> Markup {
    scroll(
        "Clauses",
        html! {
            table class="stack" {
                thead { tr {
                    th scope="col" { "measurement" } th class="n" scope="col" { "value" }
                    th scope="col" { "demanded" } th scope="col" { "what it is" }
                } }
                tbody {
                    @for clause in clauses {
                        tr {
                            th scope="row" class="mono" { (clause.measurement) }
                            td class="n" data-label="value" { (clause.value.map_or("–".to_owned(), number)) }
                            td data-label="demanded" { (clause.bounds().unwrap_or_default()) }
                            td class="long" { (meaning(&clause.measurement)) }
                        }
                    }
                }
            }
        },
    )
}

/// What else it could be, with the number that tells.
pub(super) fn look_alikes(all: &[LookAlike]) -> Markup {
    scroll(
        "Benign look-alikes",
        html! {
            table class="stack" {
                thead { tr { th scope="col" { "what else it could be" } th scope="col" { "does it fit?" } th scope="col" { "the number" } } }
                tbody {
                    @for look in all.iter().filter(|look| look.fits.is_some()) {
                        tr {
                            th scope="row" { (look.name) }
                            td data-label="does it fit?" {
                                @match look.fits {
                                    Some(true) => "not excluded by this",
                                    _ => "no",
                                }
                            }
                            td class="long" { (look.told) }
                        }
                    }
                }
            }
        },
    )
}

/// The signatures of look-alikes, with the clauses that rule each out.
pub(super) fn considered(considered: &[Considered<'_>]) -> Markup {
    scroll(
        "Signatures of look-alikes",
        html! {
            table {
                thead { tr { th scope="col" { "signature" } th scope="col" { "holds" } th scope="col" { "clauses that do not hold" } } }
                tbody {
                    @for look in considered {
                        tr {
                            th scope="row" { (sanitise::sentence(look.title)) br; span class="mono quiet" { (sanitise::name(look.signature)) } }
                            td { (if look.holds { "yes" } else { "no" }) }
                            td { @for clause in &look.failing { (clause.told()) br; } }
                        }
                    }
                }
            }
        },
    )
}

/// The files of one side with their hashes.
pub(super) fn files(label: &str, side: &Side) -> Markup {
    scroll(
        &format!("{label} files"),
        html! {
            table {
                thead { tr { th scope="col" { "file" } th class="n" scope="col" { "size" } th scope="col" { "SHA-256" } } }
                tbody {
                    @for file in side.files.iter().take(ROWS) {
                        tr {
                            th scope="row" class="mono" { (sanitise::name(&file.name)) }
                            td class="n" { (words::bytes(file.bytes)) }
                            td class="mono" { (file.sha256.as_deref().map_or("not known".to_owned(), sanitise::name)) }
                        }
                    }
                }
            }
        },
    )
}

/// Why tensors were not examined, and how many.
pub(super) fn not_examined(told: &Told) -> Markup {
    scroll(
        "Not examined",
        html! {
            table {
                thead { tr { th class="n" scope="col" { "tensors" } th scope="col" { "not examined because" } th scope="col" { "such as" } } }
                tbody {
                    @for (reason, number, names) in told.not_examined.iter().filter(|one| one.1 > 0).take(ROWS) {
                        tr { td class="n" { (number) } td { (reason) } td class="mono" { (names.join(", ")) } }
                    }
                }
            }
        },
    )
}

/// Oddities of the files, one kind a row.
pub(super) fn oddities(all: &[GroupedOddity<'_>]) -> Markup {
    scroll(
        "Oddities of the files",
        html! {
            table {
                thead { tr { th scope="col" { "kind" } th scope="col" { "file" } th scope="col" { "tensor" } th scope="col" { "detail" } } }
                tbody {
                    @for one in all.iter().take(ROWS) {
                        tr {
                            td { (one.kind()) }
                            td class="mono" { (one.file()) }
                            td class="mono" { (one.first.tensor.as_deref().map_or(String::new(), sanitise::name)) }
                            td class="long" { (one.detail()) }
                        }
                    }
                }
            }
        },
    )
}

/// Decisions, one a row.
pub(super) fn decisions(all: &[Decision]) -> Markup {
    scroll(
        "Decisions, oldest first",
        html! {
            table class="stack" {
                thead { tr {
                    th scope="col" { "when" } th scope="col" { "who" } th scope="col" { "decision" } th scope="col" { "why" }
                } }
                tbody {
                    @for decision in all {
                        tr {
                            td class="keep" { (words::when(decision.made_at)) }
                            td { (sanitise::name(&decision.who)) }
                            td { (decision.decision.told()) }
                            td class="long" { (sanitise::clean(&decision.note, 4000)) }
                        }
                    }
                }
            }
        },
    )
}
