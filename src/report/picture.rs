//! Pictures as files of their own: SVG with its colours inside, and PNG drawn from it with a font of ours, so that the
//! same numbers give the same bytes on every machine.

use std::sync::{Arc, LazyLock};

use maud::Markup;
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};
use resvg::{tiny_skia, usvg};

use super::html::STYLESHEET;
use crate::error::{Error, ErrorKind, Result};

/// Pixels of a PNG for each unit of the drawing.
const SCALE: f32 = 2.0;

/// The rules of pictures, with the light colours in the place of their names: a file has no page to take them from.
static RULES: LazyLock<String> = LazyLock::new(|| {
    let light = STYLESHEET.split("@media").next().unwrap_or_default();
    let colours: Vec<(&str, &str)> = light
        .split(['{', ';', '}'])
        .filter_map(|part| part.trim().strip_prefix("--")?.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let after = STYLESHEET.split("@media print").next().unwrap_or_default();
    let mut rules = String::new();
    for rule in after.split_inclusive('}').map(str::trim) {
        let of_pictures = rule.starts_with(".chart ") && !rule.starts_with(".chart {");
        let of_series = ["s", "h"].iter().any(|letter| {
            rule.strip_prefix('.')
                .and_then(|rest| rest.strip_prefix(letter))
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.get(1..2) == Some(" "))
        });
        if of_pictures || of_series {
            let filled = colours
                .iter()
                .fold(rule.to_owned(), |rule, (name, value)| rule.replace(&format!("var(--{name})"), value));
            rules.push_str(&filled);
            rules.push('\n');
        }
    }
    rules
});

/// The one font that pictures are drawn with (Ubuntu Light, under the Ubuntu font licence, out of a crate that carries
/// it).
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts.faces().find_map(|face| face.families.first().map(|(name, _)| name.clone()));
    if let Some(family) = family {
        fonts.set_sans_serif_family(family);
    }
    Arc::new(fonts)
});

/// A picture of [`super::chart`] as a whole SVG file, on white.
pub fn svg(picture: &Markup) -> String {
    let picture = picture.0.as_str();
    let (opening, rest) = picture.split_once('>').unwrap_or((picture, ""));
    let sizes: Vec<&str> = opening
        .split_once("viewBox=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(numbers, _)| numbers.split_whitespace().skip(2).collect())
        .unwrap_or_default();
    let number = |index: usize, otherwise: f64| {
        sizes.get(index).and_then(|size| size.parse().ok()).filter(|size: &f64| size.is_finite()).unwrap_or(otherwise)
    };
    let (width, height) = (number(0, 720.0), number(1, 300.0));
    let (before, after) = opening.split_once(" viewBox=\"").unwrap_or((opening, ""));
    let after = after.split_once('"').map_or("", |(_, after)| after);
    let before = before.replacen("<svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"", 1);
    format!(
        "{before} viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\"{after}><style>\n{}</style>\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>{rest}\n",
        RULES.as_str()
    )
}

/// An SVG file of [`svg`] as PNG, two pixels for each of its units.
///
/// # Errors
/// [`ErrorKind::Internal`] when it cannot be drawn, which is a defect.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let defect = |what: String| Error::new(ErrorKind::Internal, format!("drawing a picture: {what}"));
    let options = Options { fontdb: FONTS.clone(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| defect(error.to_string()))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| defect("it has no size".to_owned()))?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).ok_or_else(|| defect("it is too large".to_owned()))?;
    resvg::render(&tree, usvg::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| defect(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{chart, sample};

    #[test]
    fn colours_are_inside_and_letters_are_drawn() {
        assert!(!RULES.contains("var("), "{}", RULES.as_str());
        assert!(
            RULES.contains(".chart .share") && RULES.contains(".s0") && RULES.contains(".h6"),
            "{}",
            RULES.as_str()
        );
        let hostile = sample::hostile();
        let evidence = hostile.orthogonalization.as_ref().expect("has evidence");
        let file = svg(&chart::strengths(evidence, "x", chart::Room::Wide).expect("is drawn"));
        assert!(!file.contains("<script>"));
        let drawn = png(&file).expect("is drawn");
        assert_eq!(drawn, png(&file).expect("is drawn again"));
        let without = file.split("<text").next().unwrap_or_default().to_owned() + "</svg>";
        assert!(drawn.starts_with(b"\x89PNG") && drawn.len() > png(&without).expect("is drawn").len() + 2000);
    }
}
