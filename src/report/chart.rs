//! Pictures as SVG: no script, no style attribute (a page's policy may forbid both), colours by class from the page.
//!
//! Every picture has a title and a description for screen readers, and the page puts the numbers in a table beside it.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use crate::arch::{Axis, Kind};
use crate::examination::Orthogonalization;
use crate::profile::{Profile, Sameness};
use crate::report::plot::{self, Series};
use crate::report::sanitise;
use crate::report::words::{number, strength};

/// Series drawn in one picture; more would share colours.
const SERIES: usize = 6;

/// Layers drawn; the deepest published models have under 200.
const LAYERS: usize = 256;

/// Room for the axis on the left, the axis below, and at the right.
const LEFT: f64 = 54.0;
const BOTTOM: f64 = 40.0;
const RIGHT: f64 = 14.0;

/// Columns that a character of a title and of a legend takes at most, on average, and lines of titles and legends.
const TITLE_CHARACTER: f64 = 7.0;
const LEGEND_CHARACTER: f64 = 7.2;
const LINE: f64 = 18.0;

/// How much room a picture has. A drawing for a wide page has letters of half their size on a telephone, so there is
/// another one for that; the stylesheet shows the one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A page, paper, a file.
    Wide,
    /// A telephone, or a card beside others.
    Narrow,
}

impl Room {
    const fn width(self) -> f64 {
        match self {
            Self::Wide => 720.0,
            Self::Narrow => 340.0,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Wide => "chart wide",
            Self::Narrow => "chart narrow",
        }
    }

    /// The ids of a picture's title and description, apart from those of the same picture for another room.
    fn ids(self, id: &str) -> (String, String) {
        let room = if self == Self::Wide { "" } else { "-narrow" };
        (format!("{id}{room}-title"), format!("{id}{room}-desc"))
    }
}

/// A picture for every room.
pub fn fitting(draw: impl Fn(Room) -> Option<Markup>) -> Option<Markup> {
    let (wide, narrow) = (draw(Room::Wide)?, draw(Room::Narrow)?);
    Some(html! { (wide) (narrow) })
}

/// A picture's title in its own letters, and how far down it reaches.
fn heading(title: &str, room: Room) -> (Markup, f64) {
    let lines = sanitise::wrap(title, (room.width() / TITLE_CHARACTER) as usize);
    let height = 4.0 + LINE * lines.len() as f64;
    let markup = html! {
        @for (number, line) in (1..).zip(&lines) {
            text class="heading" x="4" y=(at(LINE * f64::from(number) - 2.0)) { (line) }
        }
    };
    (markup, height)
}

/// Places the items of a legend, given their widths, in lines from `top` on: the corner of each, and how far down they
/// reach.
fn flow(widths: &[f64], left: f64, top: f64, room: Room) -> (Vec<(f64, f64)>, f64) {
    let (mut x, mut y) = (left, top);
    let mut places = Vec::new();
    for width in widths {
        if x > left && x + width > room.width() {
            (x, y) = (left, y + LINE);
        }
        places.push((x, y));
        x += width;
    }
    (places, y + LINE)
}

/// A coordinate with one decimal: enough for a screen, and the same bytes everywhere.
fn at(value: f64) -> String {
    format!("{value:.1}")
}

/// Round numbers from `low` to `high` for an axis, about `wanted` of them.
fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let raw = span / wanted.max(1) as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last.min(first + 50)).map(|k| k as f64 * step).collect()
}

/// The layers of several series, lowest first, at most [`LAYERS`].
fn layers<'a>(series: impl Iterator<Item = &'a Series>) -> Vec<u32> {
    let set: BTreeSet<u32> = series.flat_map(|s| s.points.keys().copied()).collect();
    set.into_iter().take(LAYERS).collect()
}

/// λ̂ over layers with 95 % error bars, one mark shape and colour per module.
pub fn strengths(orthogonalization: &Orthogonalization, id: &str, room: Room) -> Option<Markup> {
    let series = plot::series(orthogonalization);
    let values = series.iter().flat_map(|s| s.points.values());
    let high = values.clone().map(|(l, e)| l + 1.96 * e).filter(|v| *v < 50.0).fold(0.0, f64::max);
    let low = values.map(|(l, e)| l - 1.96 * e).filter(|v| *v > -50.0).fold(0.0, f64::min);
    let description = series
        .iter()
        .take(SERIES)
        .map(|s| {
            let peak = s.points.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0));
            match peak {
                Some((layer, (lambda, _))) if *lambda != 0.0 => {
                    format!("{}: highest λ {} at layer {layer}", s.module, strength(*lambda))
                }
                _ => format!("{}: {}", s.module, plot::nothing(s.points.values().map(|p| p.1).fold(0.0, f64::max))),
            }
        })
        .collect::<Vec<_>>()
        .join("; ");
    Some(points(
        &series,
        &Frame {
            id,
            title: "Strength λ over layers",
            description: &description,
            axis: "λ (1 removes the direction wholly)",
            low,
            // Room above the highest point, and the line of a whole removal in sight where it is near.
            high: if high > 0.3 { (high * 1.05).max(1.1) } else { (high * 1.1).max(0.01) },
            guides: &[(1.0, "λ = 1")],
            joined: true,
        },
        room,
    ))
    .filter(|_| !series.is_empty())
}

/// How well each writer's direction agrees with that of the other layers. `None` when no writer was fitted.
pub fn agreement(profile: &Profile, id: &str, room: Room) -> Option<Markup> {
    let series = agreements(profile);
    if series.is_empty() {
        return None;
    }
    // |cos| of two random directions of this width: mean √(2/πd).
    let width = profile
        .tensors
        .iter()
        .filter(|t| t.role.kind == Kind::Writer && t.projection.is_some())
        .filter_map(|t| {
            t.role.residual.map(|axis| match axis {
                Axis::Rows => t.shape[0],
                Axis::Columns => t.shape[1],
            })
        })
        .max()
        .unwrap_or(0);
    let chance = if width > 0 { (2.0 / (std::f64::consts::PI * width as f64)).sqrt() } else { 0.0 };
    let label = format!("chance: {chance:.3}");
    let lowest = series.iter().flat_map(|s| s.points.values()).map(|p| p.0).fold(1.0, f64::min);
    let description = format!("Lowest agreement {lowest:.3}; random directions of this width agree at {chance:.3}.");
    let guides: &[(f64, &str)] = if width > 0 { &[(chance, &label)] } else { &[] };
    Some(points(
        &series,
        &Frame {
            id,
            title: "Agreement of the direction across layers",
            description: &description,
            axis: "|cos| with the other layers' direction",
            low: 0.0,
            high: 1.0,
            guides,
            joined: false,
        },
        room,
    ))
}

/// The numbers of [`agreement`]: module to layer to |cos|, for writers that fit.
pub fn agreements(profile: &Profile) -> Vec<Series> {
    let mut modules: BTreeMap<String, BTreeMap<u32, (f64, f64)>> = BTreeMap::new();
    for tensor in &profile.tensors {
        let (Some(projection), Some(layer), Kind::Writer) = (&tensor.projection, tensor.role.layer, tensor.role.kind)
        else {
            continue;
        };
        if projection.fits && projection.agreement.is_finite() {
            let module = modules.entry(sanitise::name(&tensor.role.module)).or_default();
            // Experts of a layer share a point: the lowest of them.
            let point = module.entry(layer).or_insert((1.0, 0.0));
            point.0 = point.0.min(projection.agreement.clamp(0.0, 1.0));
        }
    }
    modules.into_iter().map(|(module, points)| Series { module, points }).collect()
}

struct Frame<'a> {
    id: &'a str,
    title: &'a str,
    description: &'a str,
    axis: &'a str,
    low: f64,
    high: f64,
    guides: &'a [(f64, &'a str)],
    joined: bool,
}

fn points(all: &[Series], frame: &Frame<'_>, room: Room) -> Markup {
    const PLOT: f64 = 226.0;
    let width = room.width();
    let shown = &all[..all.len().min(SERIES)];
    let layers = layers(shown.iter());
    let index: BTreeMap<u32, usize> = layers.iter().enumerate().map(|(i, l)| (*l, i)).collect();
    let step = (width - LEFT - RIGHT) / layers.len().max(1) as f64;
    let x = |layer: u32, series: usize| {
        // Modules of a layer stand beside each other, so that equal values do not hide one another.
        let dodge = (series as f64 - (shown.len() as f64 - 1.0) / 2.0) * (step * 0.18).min(5.0);
        LEFT + (index.get(&layer).copied().unwrap_or(0) as f64 + 0.5) * step + dodge
    };
    let (heading, below) = heading(frame.title, room);
    let (legend, top) = legend(shown, all.len(), below, room);
    let height = top + 4.0 + PLOT + BOTTOM;
    let span = (frame.high - frame.low).max(1e-9);
    let y = |value: f64| {
        let share = ((value - frame.low) / span).clamp(0.0, 1.0);
        height - BOTTOM - share * PLOT
    };
    let (title, desc) = room.ids(frame.id);
    let every = numbered_every(layers.len(), step);
    html! {
        svg class=(room.class()) role="img" aria-labelledby={ (title) " " (desc) } viewBox={ "0 0 " (width) " " (at(height)) } {
            title id=(title) { (frame.title) }
            desc id=(desc) { (frame.description) }
            (heading)
            (legend)
            @for tick in ticks(frame.low, frame.high, 6) {
                line class="grid" x1=(at(LEFT)) x2=(at(width - RIGHT)) y1=(at(y(tick))) y2=(at(y(tick))) {}
                text class="tick end" x=(at(LEFT - 6.0)) y=(at(y(tick) + 4.0)) { (axis_number(tick)) }
            }
            @for (value, label) in frame.guides.iter().filter(|g| g.0 >= frame.low && g.0 <= frame.high) {
                line class="guide" x1=(at(LEFT)) x2=(at(width - RIGHT)) y1=(at(y(*value))) y2=(at(y(*value))) {}
                text class="guide-label end" x=(at(width - RIGHT)) y=(at(y(*value) - 4.0)) { (label) }
            }
            @for layer in layers.iter().step_by(every) {
                text class="tick middle" x=(at(LEFT + (index[layer] as f64 + 0.5) * step)) y=(at(height - BOTTOM + 16.0)) {
                    (layer)
                }
            }
            text class="axis middle" x=(at((LEFT + width - RIGHT) / 2.0)) y=(at(height - 6.0)) { "layer" }
            text class="axis middle" transform={ "translate(13 " (at(height - BOTTOM - PLOT / 2.0)) ") rotate(-90)" } {
                (frame.axis)
            }
            @for (s, series) in shown.iter().enumerate() {
                @if frame.joined {
                    polyline class={ "line s" (s) } points=(path(series, &index, |l, v| (x(l, s), y(v)))) {}
                }
                @for (layer, (value, stderr)) in series.points.iter().filter(|(l, _)| index.contains_key(l)) {
                    @if *stderr > 0.0 {
                        line class={ "bar s" (s) } x1=(at(x(*layer, s))) x2=(at(x(*layer, s)))
                            y1=(at(y(value - 1.96 * stderr))) y2=(at(y(value + 1.96 * stderr))) {}
                    }
                    (mark(s, x(*layer, s), y(*value), *value == 0.0))
                }
            }
        }
    }
}

/// Every how many layers of this width on the axis a number has room.
fn numbered_every(layers: usize, step: f64) -> usize {
    const NUMBER: f64 = 24.0;
    ((NUMBER / step).ceil() as usize).clamp(1, layers.max(1))
}

fn axis_number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn path(series: &Series, index: &BTreeMap<u32, usize>, place: impl Fn(u32, f64) -> (f64, f64)) -> String {
    series
        .points
        .iter()
        .filter(|(layer, _)| index.contains_key(layer))
        .map(|(layer, (value, _))| {
            let (x, y) = place(*layer, *value);
            format!("{},{}", at(x), at(y))
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// A mark of the series' own shape; hollow for a writer in which nothing was found removed.
fn mark(series: usize, x: f64, y: f64, hollow: bool) -> Markup {
    let class = format!("mark s{series}{}", if hollow { " hollow" } else { "" });
    html! {
        @match series % 3 {
            0 => circle class=(class) cx=(at(x)) cy=(at(y)) r="3.4" {},
            1 => rect class=(class) x=(at(x - 3.1)) y=(at(y - 3.1)) width="6.2" height="6.2" {},
            _ => path class=(class) d={ "M" (at(x)) " " (at(y - 4.2)) "L" (at(x + 4.0)) " " (at(y + 3.0)) "L" (at(x - 4.0)) " " (at(y + 3.0)) "Z" } {},
        }
    }
}

fn legend(shown: &[Series], all: usize, top: f64, room: Room) -> (Markup, f64) {
    let mut labels: Vec<String> = shown.iter().map(|series| sanitise::fit(&series.module, 22, "…")).collect();
    if all > shown.len() {
        labels.push(format!("and {} more in the table", all - shown.len()));
    }
    let widths: Vec<f64> = labels.iter().map(|label| 22.0 + LEGEND_CHARACTER * sanitise::width(label) as f64).collect();
    let (places, below) = flow(&widths, LEFT + 6.0, top, room);
    let markup = html! {
        @for (s, (label, (x, y))) in labels.iter().zip(&places).enumerate() {
            @if s < shown.len() { (mark(s, *x, y + 10.0, false)) }
            text class="legend" x=(at(x + 9.0)) y=(at(y + 14.0)) { (label) }
        }
    };
    (markup, below)
}

/// One cell of the heat map: the largest relative change among a module's tensors in a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heat {
    /// ‖Δ‖/‖W‖; 0 when all are bit-identical.
    pub relative: f64,
    /// Whether any is a recast of the base (different bits, same numbers).
    pub recast: bool,
}

/// A row of the heat map.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatRow {
    /// The module.
    pub module: String,
    /// What it does.
    pub kind: Kind,
    /// Layer to cell; `None` is for tensors outside the layers.
    pub cells: BTreeMap<Option<u32>, Heat>,
}

impl HeatRow {
    /// The relative changes of the cells that changed, smallest first.
    pub fn changes(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.cells.values().map(|cell| cell.relative).filter(|r| *r > 0.0).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// Relative change by module and layer: writers first, then readers, then the rest.
pub fn heat(profile: &Profile) -> Vec<HeatRow> {
    let order = |kind: Kind| match kind {
        Kind::Writer => 0,
        Kind::Reader => 1,
        Kind::Embedding | Kind::Head => 2,
        Kind::Router => 3,
        Kind::Norm => 4,
        Kind::Bias => 5,
        Kind::Other => 6,
    };
    let mut rows: BTreeMap<(usize, String), HeatRow> = BTreeMap::new();
    for tensor in &profile.tensors {
        let module = sanitise::name(&tensor.role.module);
        let kind = tensor.role.kind;
        let row = rows.entry((order(kind), module.clone())).or_insert_with(|| HeatRow {
            module,
            kind,
            cells: BTreeMap::new(),
        });
        let relative = match tensor.sameness {
            Sameness::Changed if tensor.relative_norm.is_finite() => tensor.relative_norm,
            Sameness::Changed => f64::INFINITY,
            Sameness::Identical | Sameness::Recast | Sameness::Requantized => 0.0,
        };
        let cell = row.cells.entry(tensor.role.layer).or_insert(Heat { relative: 0.0, recast: false });
        cell.relative = cell.relative.max(relative);
        cell.recast |= matches!(tensor.sameness, Sameness::Recast | Sameness::Requantized);
    }
    rows.into_values().collect()
}

/// Upper ends of the colour steps of relative change.
const STEPS: [f64; 6] = [0.001, 0.003, 0.01, 0.03, 0.1, f64::INFINITY];

fn step(relative: f64) -> usize {
    STEPS.iter().position(|end| relative <= *end).unwrap_or(STEPS.len() - 1) + 1
}

/// The heat map. `None` when no tensor of a layer was measured.
pub fn heat_map(profile: &Profile, id: &str, room: Room) -> Option<Markup> {
    const ROWS: usize = 40;
    const CELL_HEIGHT: f64 = 20.0;
    const TITLE: &str = "Relative change by module and layer";
    const KEYS: [&str; 7] = ["same", "≤ 0.1 %", "≤ 0.3 %", "≤ 1 %", "≤ 3 %", "≤ 10 %", "more"];
    let (label, letters) = if room == Room::Wide { (150.0, 18) } else { (112.0, 13) };
    let rows: Vec<HeatRow> =
        heat(profile).into_iter().filter(|row| row.cells.keys().any(Option::is_some)).take(ROWS).collect();
    let layers: BTreeSet<u32> = rows.iter().flat_map(|row| row.cells.keys().flatten().copied()).collect();
    let layers: Vec<u32> = layers.into_iter().take(LAYERS).collect();
    if layers.is_empty() {
        return None;
    }
    let width = ((room.width() - label - RIGHT) / layers.len() as f64).min(40.0);
    let (heading, below) = heading(TITLE, room);
    let (keys, top) = flow(&[70.0; KEYS.len()], 4.0, below, room);
    let height = top + 6.0 + rows.len() as f64 * CELL_HEIGHT + BOTTOM;
    let changed: usize = rows.iter().filter(|row| row.cells.values().any(|cell| cell.relative > 0.0)).count();
    let description =
        format!("{} of {} modules changed in some layer; writers are marked with W.", changed, rows.len());
    let every = numbered_every(layers.len(), width);
    let (title, desc) = room.ids(id);
    Some(html! {
        svg class=(room.class()) role="img" aria-labelledby={ (title) " " (desc) } viewBox={ "0 0 " (room.width()) " " (at(height)) } {
            title id=(title) { (TITLE) }
            desc id=(desc) { (description) }
            (heading)
            @for (k, (key, (x, y))) in KEYS.iter().zip(&keys).enumerate() {
                rect class={ "cell h" (k) } x=(at(*x)) y=(at(y + 3.0)) width="12" height="12" {}
                text class="legend" x=(at(x + 16.0)) y=(at(y + 13.0)) { (key) }
            }
            @for (r, row) in rows.iter().enumerate() {
                @let y = top + 2.0 + r as f64 * CELL_HEIGHT;
                text class="tick end" x=(at(label - 26.0)) y=(at(y + 14.0)) { (sanitise::fit(&row.module, letters, "…")) }
                @if row.kind == Kind::Writer {
                    text class="writer middle" x=(at(label - 13.0)) y=(at(y + 14.0)) { "W" }
                }
                @for (column, layer) in layers.iter().enumerate() {
                    @if let Some(cell) = row.cells.get(&Some(*layer)) {
                        rect class={ "cell h" (if cell.relative > 0.0 { step(cell.relative) } else { 0 }) }
                            x=(at(label + column as f64 * width)) y=(at(y)) width=(at((width - 1.0).max(0.8))) height="18" {
                            title {
                                (row.module) ", layer " (layer) ": "
                                (if cell.relative > 0.0 { number(cell.relative) } else { "unchanged".to_owned() })
                            }
                        }
                    }
                }
            }
            @for (column, layer) in layers.iter().enumerate().step_by(every) {
                text class="tick middle" x=(at(label + (column as f64 + 0.5) * width)) y=(at(height - BOTTOM + 8.0)) { (layer) }
            }
            text class="axis middle" x=(at(label + layers.len() as f64 * width / 2.0)) y=(at(height - 8.0)) { "layer" }
        }
    })
}

/// One bar of [`bars`]: a share with its interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// What it is a share of.
    pub label: String,
    /// The share, 0 to 1.
    pub share: f64,
    /// Its interval.
    pub interval: (f64, f64),
    /// Counts in words, at the end of the row.
    pub counts: String,
}

/// How the rows of horizontal bars are laid out: where bars begin and how high a row is. Where there is room, names
/// stand before their bars, otherwise above them.
struct Rows {
    room: Room,
    left: f64,
    row: f64,
    /// From the top of a row to that of its bar.
    bar: f64,
    top: f64,
}

/// Height of a bar.
const BAR: f64 = 16.0;

impl Rows {
    fn new(room: Room, top: f64) -> Self {
        match room {
            Room::Wide => Self { room, left: 230.0, row: 24.0, bar: 2.0, top },
            Room::Narrow => Self { room, left: 18.0, row: 40.0, bar: 18.0, top },
        }
    }

    /// The top of a row's bar.
    fn bar(&self, row: usize) -> f64 {
        self.top + row as f64 * self.row + self.bar
    }

    fn height(&self, rows: usize) -> f64 {
        self.top + rows as f64 * self.row + BOTTOM
    }

    fn label(&self, row: usize, label: &str) -> Markup {
        let label = sanitise::fit(&sanitise::name(label), 32, "…");
        let y = self.bar(row);
        match self.room {
            Room::Wide => html! { text class="tick end" x=(at(self.left - 8.0)) y=(at(y + 11.0)) { (label) } },
            Room::Narrow => html! { text class="tick" x="4" y=(at(y - 5.0)) { (label) } },
        }
    }
}

/// Rows of a picture of bars.
const BARS: usize = 30;

/// Horizontal bars of shares with intervals.
pub fn bars(shares: &[Share], id: &str, title: &str, room: Room) -> Option<Markup> {
    const COUNTS: f64 = 96.0;
    let shown = &shares[..shares.len().min(BARS)];
    if shown.is_empty() {
        return None;
    }
    let highest = shown.iter().map(|s| s.interval.1).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let high =
        ticks(0.0, highest.clamp(0.01, 1.0) * 1.25, 5).last().copied().unwrap_or(1.0).clamp(highest.min(1.0), 1.0);
    let (heading, below) = heading(title, room);
    let rows = Rows::new(room, below + 4.0);
    let (width, height) = (room.width(), rows.height(shown.len()));
    let x = |share: f64| rows.left + (share / high).clamp(0.0, 1.0) * (width - rows.left - COUNTS);
    let (named, desc) = room.ids(id);
    Some(html! {
        svg class=(room.class()) role="img" aria-labelledby={ (named) " " (desc) } viewBox={ "0 0 " (width) " " (at(height)) } {
            title id=(named) { (title) }
            desc id=(desc) { (shown.len()) " rows; the numbers are in the table beside the picture." }
            (heading)
            @for tick in ticks(0.0, high, 5) {
                line class="grid" x1=(at(x(tick))) x2=(at(x(tick))) y1=(at(rows.top)) y2=(at(height - BOTTOM)) {}
                text class="tick middle" x=(at(x(tick))) y=(at(height - BOTTOM + 16.0)) { (axis_number(tick * 100.0)) " %" }
            }
            @for (row, share) in shown.iter().enumerate() {
                @let y = rows.bar(row);
                (rows.label(row, &share.label))
                rect class="share" x=(at(rows.left)) y=(at(y)) width=(at(x(share.share) - rows.left)) height=(at(BAR)) {}
                line class="interval" x1=(at(x(share.interval.0))) x2=(at(x(share.interval.1))) y1=(at(y + 8.0)) y2=(at(y + 8.0)) {}
                @for end in [share.interval.0, share.interval.1] {
                    line class="interval" x1=(at(x(end))) x2=(at(x(end))) y1=(at(y + 4.0)) y2=(at(y + 12.0)) {}
                }
                text class="tick" x=(at(width - COUNTS + 8.0)) y=(at(y + 11.0)) { (share.counts) }
            }
        }
    })
}

/// Horizontal bars of whole numbers, `unit` on the axis. `None` for none.
pub fn lengths(items: &[(String, i64)], id: &str, title: &str, unit: &str, room: Room) -> Option<Markup> {
    const NUMBER: f64 = 60.0;
    let shown = &items[..items.len().min(BARS)];
    let highest = shown.iter().map(|item| item.1).max()?.max(1) as f64;
    let (heading, below) = heading(title, room);
    let rows = Rows::new(room, below + 4.0);
    let (width, height) = (room.width(), rows.height(shown.len()));
    let x = |value: f64| rows.left + (value / highest).clamp(0.0, 1.0) * (width - rows.left - NUMBER);
    let (named, desc) = room.ids(id);
    Some(html! {
        svg class=(room.class()) role="img" aria-labelledby={ (named) " " (desc) } viewBox={ "0 0 " (width) " " (at(height)) } {
            title id=(named) { (title) }
            desc id=(desc) { (shown.len()) " rows; the numbers are in the table beside the picture." }
            (heading)
            @for tick in ticks(0.0, highest, 5).into_iter().filter(|tick| tick.fract() == 0.0) {
                line class="grid" x1=(at(x(tick))) x2=(at(x(tick))) y1=(at(rows.top)) y2=(at(height - BOTTOM)) {}
                text class="tick middle" x=(at(x(tick))) y=(at(height - BOTTOM + 16.0)) { (axis_number(tick)) }
            }
            text class="axis middle" x=(at((rows.left + width - NUMBER) / 2.0)) y=(at(height - 6.0)) { (unit) }
            @for (row, (label, value)) in shown.iter().enumerate() {
                @let y = rows.bar(row);
                (rows.label(row, label))
                rect class="share" x=(at(rows.left)) y=(at(y)) width=(at(x(*value as f64) - rows.left)) height=(at(BAR)) {}
                text class="tick" x=(at(x(*value as f64) + 6.0)) y=(at(y + 11.0)) { (value) }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn pictures_have_no_style_and_no_script() {
        for examination in sample::everything().examinations {
            let mut all = Vec::new();
            for room in [Room::Wide, Room::Narrow] {
                if let Some(o) = &examination.orthogonalization {
                    all.extend(strengths(o, "a", room));
                }
                if let Some(profile) = &examination.profile {
                    all.extend(heat_map(profile, "b", room));
                    all.extend(agreement(profile, "c", room));
                }
            }
            for picture in all {
                let text = picture.into_string();
                assert!(!text.contains("style=") && !text.contains("<script"), "{text}");
                assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            }
        }
    }

    #[test]
    fn axis_ticks_are_round() {
        assert_eq!(ticks(0.0, 1.05, 5), [0.0, 0.5, 1.0]);
        assert_eq!(ticks(0.0, f64::NAN, 5), [0.0]);
        assert_eq!(axis_number(0.25), "0.25");
        assert_eq!(axis_number(10.0), "10");
    }

    #[test]
    fn steps_cover_every_change() {
        assert_eq!(step(1e-9), 1);
        assert_eq!(step(0.02), 4);
        assert_eq!(step(f64::INFINITY), 6);
    }

    #[test]
    fn bars_are_drawn_for_any_share() {
        let share = |share: f64, interval| Share { label: "<b>".into(), share, interval, counts: "1 of 2".into() };
        let text =
            bars(&[share(0.5, (0.1, 0.9)), share(0.0, (0.0, 0.0))], "x", "Shares", Room::Wide).map(Markup::into_string);
        assert!(text.is_some_and(|t| t.contains("&lt;b&gt;") && !t.contains("NaN")));
        assert!(bars(&[], "x", "Shares", Room::Narrow).is_none());
        let text = lengths(&[("<b>".into(), -3), ("b".into(), 12)], "x", "Days", "days", Room::Narrow)
            .map(Markup::into_string);
        assert!(text.is_some_and(|t| t.contains("&lt;b&gt;") && t.contains(">12<") && !t.contains("NaN")));
        assert!(lengths(&[], "x", "Days", "days", Room::Wide).is_none());
    }
}
