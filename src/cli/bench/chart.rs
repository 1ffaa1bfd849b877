//! Bars in SVG, for `strongroom bench --chart` and `benches/mounted`: a panel a workload, a bar a filesystem. Pure text; knows
//! nothing of what was measured. Readable on a light and on a dark page.

use std::fmt::Write;

/// Whose bar it is; each has a colour of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Without any encryption.
    Reference,
    /// Ours.
    Own,
    /// Somebody else's.
    #[allow(dead_code)] // `strongroom bench` has none
    Peer,
}

/// One measured value.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What was measured.
    pub name: String,
    /// How long the bar is, in the unit of its panel.
    pub value: f64,
    /// The value as shown at its end.
    pub shown: String,
    /// Its colour.
    pub role: Role,
}

/// The bars of one workload, in one unit.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The workload, and what its unit is.
    pub title: String,
    /// From the top down.
    pub bars: Vec<Bar>,
}

const COLUMNS: usize = 3;
const PANEL_WIDTH: usize = 380;
const NAME_WIDTH: usize = 142;
/// Room for the value after the longest bar.
const VALUE_WIDTH: usize = 64;
const BAR_HEIGHT: usize = 14;
const BAR_STEP: usize = 18;
const PANEL_HEAD: usize = 28;
const MARGIN: usize = 16;
const HEAD: usize = 58;

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:13px}.h{font-weight:600;font-size:17px}\
.n{fill:#59636e}.b{fill:#ffffff}.reference{fill:#8c959f}.own{fill:#1a7f37}.peer{fill:#5b8def}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9198a1}.b{fill:#0d1117}.reference{fill:#6e7681}.own{fill:#3fb950}\
.peer{fill:#4a7bd8}}";

/// The whole picture: a heading, one line below it, and the panels, three in a row.
pub fn svg(heading: &str, note: &str, panels: &[Panel]) -> String {
    let rows: Vec<_> = panels.chunks(COLUMNS).collect();
    let width = COLUMNS.min(panels.len().max(1)) * (PANEL_WIDTH + MARGIN) + MARGIN;
    let height = HEAD + rows.iter().map(|row| row_height(row)).sum::<usize>() + MARGIN;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>{heading}</title>\n<style>{STYLE}</style>\n<rect class=\"b\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"h\" x=\"{MARGIN}\" y=\"26\">{heading}</text>\n<text class=\"n\" x=\"{MARGIN}\" y=\"46\">{note}</text>\n",
        heading = escaped(heading),
        note = escaped(note),
    );
    let mut top = HEAD;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            draw(
                &mut out,
                panel,
                MARGIN + column * (PANEL_WIDTH + MARGIN),
                top,
            );
        }
        top += row_height(row);
    }
    out.push_str("</svg>\n");
    out
}

fn row_height(row: &[Panel]) -> usize {
    let bars = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    PANEL_HEAD + bars * BAR_STEP + MARGIN
}

fn draw(out: &mut String, panel: &Panel, left: usize, top: usize) {
    let most = panel.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let room = (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH) as f64;
    let _ = writeln!(
        out,
        "<text class=\"t\" x=\"{left}\" y=\"{}\">{}</text>",
        top + 14,
        escaped(&panel.title)
    );
    for (row, bar) in panel.bars.iter().enumerate() {
        let y = top + PANEL_HEAD + row * BAR_STEP;
        let length = if most > 0.0 {
            (bar.value / most * room).max(1.0)
        } else {
            1.0
        };
        let (role, start) = (class(bar.role), left + NAME_WIDTH);
        let _ = writeln!(
            out,
            "<text class=\"n\" x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{role}\" x=\"{start}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            start - 8,
            escaped(&bar.name),
            start as f64 + length + 6.0,
            escaped(&bar.shown),
            base = y + 11,
        );
    }
}

fn class(role: Role) -> &'static str {
    match role {
        Role::Reference => "reference",
        Role::Own => "own",
        Role::Peer => "peer",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(title: &str, values: &[f64]) -> Panel {
        let bar = |value: &f64| Bar {
            name: "a & b".to_owned(),
            value: *value,
            shown: value.to_string(),
            role: Role::Own,
        };
        Panel {
            title: title.to_owned(),
            bars: values.iter().map(bar).collect(),
        }
    }

    #[test]
    fn the_longest_bar_fills_its_panel_and_the_others_are_in_proportion() {
        let picture = svg("h", "n", &[panel("t", &[10.0, 5.0, 0.0])]);
        for width in ["174.0", "87.0", "1.0"] {
            assert!(
                picture.contains(&format!("width=\"{width}\" height=\"14\"")),
                "{picture}"
            );
        }
        assert_eq!(PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH, 174);
    }

    #[test]
    fn text_cannot_break_the_picture() {
        let picture = svg("<h>", "\"n\"", &[panel("a<b", &[1.0])]);
        assert!(
            picture.contains("&lt;h&gt;")
                && picture.contains("a&lt;b")
                && picture.contains("a &amp; b")
        );
        assert_eq!(picture.matches('<').count(), picture.matches('>').count());
    }

    #[test]
    fn panels_stand_three_in_a_row_below_one_another() {
        let panels = vec![panel("p", &[1.0]); 4];
        let picture = svg("h", "n", &panels);
        let height = HEAD + 2 * (PANEL_HEAD + BAR_STEP + MARGIN) + MARGIN;
        assert!(
            picture.contains(&format!("viewBox=\"0 0 1204 {height}\"")),
            "{picture}"
        );
        assert!(svg("h", "n", &[]).ends_with("</svg>\n"));
    }
}
