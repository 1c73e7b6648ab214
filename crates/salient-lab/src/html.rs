//! A picture as a page that needs nothing but itself: colours, legend, stages to step through.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::json;

use crate::error::Result;
use crate::picture::Picture;

/// Writes a picture as one self-contained HTML document.
///
/// # Errors
/// As [`Picture::check`].
pub fn page(picture: &Picture) -> Result<String> {
    picture.check()?;
    let mut page = String::with_capacity(4096 + 64 * picture.tokens.len());
    write_page(&mut page, picture).expect("a string takes all");
    Ok(page)
}

fn write_page(page: &mut String, picture: &Picture) -> std::fmt::Result {
    let title = escape(&picture.title);
    let stages = picture.stages.len();
    writeln!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(page, "<title>{title}</title>\n<style>\n{}", include_str!("html/page.css"))?;
    for stage in (0..stages).map(Some).chain([None]) {
        writeln!(page, ".{} {{ --t: {:.3} }}", class(stage), picture.strength(stage))?;
    }
    writeln!(page, "</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>")?;
    for (name, said) in [("Question", &picture.question), ("Answer", &picture.answer)] {
        if let Some(said) = said {
            writeln!(page, "<p class=\"asked\"><b>{name}</b> {}</p>", escape(said))?;
        }
    }
    write_facts(page, picture)?;
    writeln!(page, "</header>\n<nav><div>")?;
    writeln!(page, "<button id=\"all\" aria-pressed=\"true\">All stages</button>")?;
    writeln!(page, "<button id=\"back\" aria-label=\"Stage before\">&#9664;</button>")?;
    writeln!(
        page,
        "<input id=\"step\" type=\"range\" min=\"0\" max=\"{stages}\" value=\"{stages}\" \
         aria-label=\"Stages done\">"
    )?;
    writeln!(page, "<button id=\"next\" aria-label=\"Stage after\">&#9654;</button>")?;
    writeln!(page, "<button id=\"play\">Play</button>\n<output id=\"says\"></output>")?;
    write_legend(page, picture)?;
    writeln!(page, "</div></nav>\n<main>")?;
    write_text(page, picture)?;
    write_table(page, picture)?;
    writeln!(page, "</main>\n<div id=\"tip\" hidden></div>")?;
    // Within a script only `<` could end it.
    let data = data(picture).replace('<', "\\u003c");
    writeln!(page, "<script type=\"application/json\" id=\"data\">{data}</script>")?;
    writeln!(page, "<script>\n{}</script>\n</body>\n</html>", include_str!("html/page.js"))
}

fn write_facts(page: &mut String, picture: &Picture) -> std::fmt::Result {
    let (kept, all) = (picture.kept(), picture.tokens.len());
    let kept = format!("{kept} of {all} ({:.1}%)", 100.0 * picture.share(kept));
    let own = [("tokens kept", kept.as_str())];
    let given = picture.facts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    writeln!(page, "<dl class=\"facts\">")?;
    for (name, value) in own.into_iter().chain(given) {
        writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value))?;
    }
    writeln!(page, "</dl>")
}

fn write_legend(page: &mut String, picture: &Picture) -> std::fmt::Result {
    write!(page, "<div class=\"legend\"><b>dropped at layer</b>")?;
    for (index, stage) in picture.stages.iter().enumerate() {
        write!(page, "<span class=\"shade {}\">{}</span>", class(Some(index)), stage.layer)?;
    }
    writeln!(page, "<span class=\"shade {}\">kept</span></div>", class(None))
}

/// One element per token and nothing between them: the text is exactly the tokens'.
fn write_text(page: &mut String, picture: &Picture) -> std::fmt::Result {
    write!(page, "<div id=\"text\">")?;
    for token in &picture.tokens {
        let mark = if is_line_break(&token.text) { " break" } else { "" };
        let (class, text) = (class(token.dropped_by), escape(&token.text));
        write!(page, "<span class=\"shade {class}{mark}\">{text}</span>")?;
    }
    writeln!(page, "</div>")
}

fn write_table(page: &mut String, picture: &Picture) -> std::fmt::Result {
    writeln!(page, "<aside>\n<table>\n<caption>What each stage keeps</caption>")?;
    write!(page, "<thead><tr><th>stage</th><th>layer</th><th>dropped</th><th>kept</th>")?;
    writeln!(page, "<th>ratio</th><th></th></tr></thead>\n<tbody>")?;
    let all = picture.tokens.len();
    writeln!(
        page,
        "<tr><td>none</td><td></td><td></td><td>{all}</td><td>1.000</td>\
         <td class=\"bar\"><i style=\"width:100%\"></i></td></tr>"
    )?;
    for (index, (stage, dropped)) in picture.stages.iter().zip(picture.dropped()).enumerate() {
        let (number, class) = (index + 1, class(Some(index)));
        let (layer, kept, share) = (stage.layer, stage.kept, picture.share(stage.kept));
        write!(page, "<tr><td><span class=\"swatch shade {class}\"></span>{number}</td>")?;
        write!(page, "<td>{layer}</td><td>{dropped}</td><td>{kept}</td><td>{share:.3}</td>")?;
        let width = 100.0 * share;
        writeln!(page, "<td class=\"bar\"><i style=\"width:{width:.1}%\"></i></td></tr>")?;
    }
    writeln!(page, "</tbody>\n</table>")?;
    writeln!(page, "<p class=\"hint\">Click a row, or move the slider, to see the document after")?;
    writeln!(page, "that stage. Point at a token for its position and score.</p>\n</aside>")
}

/// What the script needs, by position.
fn data(picture: &Picture) -> String {
    let stage = |stage: &crate::picture::Stage| json!({"layer": stage.layer, "kept": stage.kept});
    let tokens = || picture.tokens.iter();
    json!({
        "stages": picture.stages.iter().map(stage).collect::<Vec<_>>(),
        "texts": tokens().map(|token| token.text.as_str()).collect::<Vec<_>>(),
        "dropped": tokens().map(|token| token.dropped_by).collect::<Vec<_>>(),
        "scores": tokens().map(|token| token.score).collect::<Vec<_>>(),
    })
    .to_string()
}

fn class(dropped_by: Option<usize>) -> String {
    dropped_by.map_or("kept".into(), |stage| format!("s{stage}"))
}

/// Whether a token is only line breaks, which would show no colour.
fn is_line_break(text: &str) -> bool {
    text.contains('\n') && text.trim().is_empty()
}

/// Text as it may stand in an element or an attribute.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'', '\0', '\r']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // These two would not survive the reader's normalisation.
            '\r' => escaped.push_str("&#13;"),
            '\0' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::picture::{Token, samples};

    /// The text between the elements, as a browser would show it.
    fn shown(page: &str) -> String {
        let from = page.find("<div id=\"text\">").unwrap() + "<div id=\"text\">".len();
        let text = &page[from..from + page[from..].find("</div>").unwrap()];
        let mut shown = String::new();
        for piece in text.split('<') {
            shown.push_str(piece.split_once('>').map_or("", |(_, text)| text));
        }
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
            .iter()
            .fold(shown, |shown, (escaped, plain)| shown.replace(escaped, plain))
    }

    #[test]
    fn the_text_is_exactly_the_tokens() {
        let picture = samples::small();
        let page = page(&picture).unwrap();
        let text: String = picture.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(shown(&page), text);
        assert_eq!(page.matches("<span class=\"shade s0\">").count(), 2 + 1);
        assert!(page.contains("<span class=\"shade kept break\">\n</span>"));
    }

    #[test]
    fn nothing_of_the_document_becomes_markup() {
        let mut picture = samples::small();
        picture.tokens[5].text = "</script><script>alert(1)</script>".into();
        picture.answer = Some("<img src=x>".into());
        let page = page(&picture).unwrap();
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
        for markup in ["<img", "<is>", "<b>&amp;", "alert(1)</script>"] {
            assert!(!page.contains(markup), "{markup}");
        }
        assert!(page.contains("<title>A &lt;/title&gt; &quot;page&quot;</title>"));
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page(&samples::small()).unwrap();
        for reference in ["http:", "https:", "url(", "src=", "href=", "@import", "//fonts"] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn the_script_gets_every_token() {
        let picture = samples::small();
        let page = page(&picture).unwrap();
        let from = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
        let data = &page[from..from + page[from..].find("</script>").unwrap()];
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        for (position, Token { text, dropped_by, score }) in picture.tokens.iter().enumerate() {
            assert_eq!(data["texts"][position], text.as_str());
            assert_eq!(data["dropped"][position], json!(dropped_by));
            assert_eq!(data["scores"][position], json!(score));
        }
        assert_eq!(data["stages"], json!([{"layer": 14, "kept": 4}, {"layer": 16, "kept": 2}]));
    }

    #[test]
    fn a_document_nobody_pruned_is_shown_and_a_contradiction_refused() {
        let mut picture = samples::small();
        picture.stages[0].kept = 3;
        assert!(matches!(page(&picture), Err(Error::Invalid(_))));
        picture.stages.clear();
        picture.tokens.iter_mut().for_each(|token| token.dropped_by = None);
        assert!(page(&picture).unwrap().contains("6 of 6 (100.0%)"));
    }
}
