//! A picture in 256 colours, or in plain letters where there are none.

use std::io::{self, Write};

use anstyle::{Ansi256Color, Style};

use crate::picture::{Picture, Stage};

/// Writes a picture for a terminal: the text with every token coloured by the stage that dropped
/// it, then the legend. Without colours what was dropped becomes an ellipsis.
///
/// # Errors
/// When writing fails.
pub fn view(picture: &Picture, colours: bool, out: &mut impl Write) -> io::Result<()> {
    if colours {
        coloured(picture, out)?
    } else {
        plain(picture, out)?
    }
    writeln!(out)?;
    let swatch = |dropped_by| if colours { style(picture, dropped_by) } else { Style::new() };
    for (index, (stage, dropped)) in picture.stages.iter().zip(picture.dropped()).enumerate() {
        let Stage { layer, kept } = *stage;
        let (number, percent) = (index + 1, 100.0 * picture.share(kept));
        let style = swatch(Some(index));
        writeln!(
            out,
            "{style} stage {number:2} {style:#} layer {layer:3}  dropped {dropped:6}  kept {kept:6}  \
             {percent:5.1}%"
        )?;
    }
    let (style, kept) = (swatch(None), picture.kept());
    let percent = 100.0 * picture.share(kept);
    writeln!(
        out,
        "{style} kept     {style:#} {kept} of {} tokens, {percent:.1}%",
        picture.tokens.len()
    )
}

fn coloured(picture: &Picture, out: &mut impl Write) -> io::Result<()> {
    for token in &picture.tokens {
        let style = style(picture, token.dropped_by);
        // A colour left on at the end of a line would fill the rest of it.
        for (index, line) in token.text.split('\n').enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            if !line.is_empty() {
                write!(out, "{style}{}{style:#}", harmless(line))?;
            }
        }
    }
    writeln!(out)
}

fn plain(picture: &Picture, out: &mut impl Write) -> io::Result<()> {
    let mut dropping = false;
    for token in &picture.tokens {
        if token.dropped_by.is_none() {
            write!(out, "{}", harmless(&token.text))?;
        } else if !dropping {
            write!(out, "…")?;
        }
        dropping = token.dropped_by.is_some();
    }
    writeln!(out)
}

/// From what went first to what was kept: dark and grey to bright, the lightness rising evenly.
const RAMP: [(u8, u8); 8] =
    [(235, 245), (237, 249), (24, 253), (30, 255), (36, 16), (72, 16), (114, 16), (228, 16)];

fn style(picture: &Picture, dropped_by: Option<usize>) -> Style {
    let last = RAMP.len() - 1;
    let step = match dropped_by {
        None => last,
        Some(_) => (picture.strength(dropped_by) / 0.8 * (last - 1) as f64).round() as usize,
    };
    let (ground, ink) = RAMP[step];
    let colour = |index| Some(Ansi256Color(index).into());
    let style = Style::new().bg_color(colour(ground)).fg_color(colour(ink));
    if dropped_by.is_none() { style.bold() } else { style }
}

/// The text without what would steer the terminal.
fn harmless(text: &str) -> String {
    let steers = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::samples;

    fn seen(colours: bool) -> String {
        let mut out = Vec::new();
        view(&samples::small(), colours, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_colours_the_kept_text_stays() {
        let text = seen(false);
        assert!(text.starts_with("The …\n…\n\n"), "{text:?}");
        assert!(!text.contains('\u{1b}'));
        assert!(
            text.contains("stage  2  layer  16  dropped      2  kept      2   33.3%"),
            "{text}"
        );
        assert!(text.ends_with("2 of 6 tokens, 33.3%\n"), "{text}");
    }

    #[test]
    fn with_colours_all_text_stays_and_controls_go() {
        let text = seen(true);
        assert!(!text.contains("\u{1b}[31m"));
        let bare = anstream::adapter::strip_str(&text).to_string();
        assert!(bare.starts_with("The <b>&amp;\n \u{fffd}[31mend\n"), "{bare:?}");
        for line in text.lines() {
            assert!(!line.contains('\u{1b}') || line.contains("\u{1b}[0m"), "{line:?}");
        }
    }

    #[test]
    fn stages_differ_in_colour() {
        let picture = samples::small();
        assert_ne!(style(&picture, Some(0)), style(&picture, Some(1)));
        assert_ne!(style(&picture, Some(1)), style(&picture, None));
    }
}
