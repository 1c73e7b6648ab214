//! The text form of a schedule; the grammar stands in the parent module.

use std::fmt;
use std::str::FromStr;

use super::{A_RATIO, KvAtStage, LATE, LOCAL, SALIENT, SDTP, SINKS, Schedule, Stages};
use crate::error::{Error, Result};

/// Reads the [text form](crate::schedule#text-form).
impl FromStr for Schedule {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidSchedule`] if the text follows no rule of the grammar, or what it says is
    /// not a valid schedule.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|reason| Error::InvalidSchedule { text: text.to_owned(), reason })
    }
}

/// Writes the [text form](crate::schedule#text-form).
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stages.fmt(f)?;
        let mut options = Vec::new();
        if self.sinks != SINKS {
            options.push(format!("sinks={}", self.sinks));
        }
        if self.local != LOCAL {
            options.push(format!("local={}", self.local));
        }
        if self.kv_at_stage == KvAtStage::Incoming {
            options.push("kv=incoming".to_owned());
        }
        if self.crossover != 0 {
            options.push(format!("crossover={}", self.crossover));
        }
        if options.is_empty() { Ok(()) } else { write!(f, "@{}", options.join(",")) }
    }
}

/// Writes the part of the [text form](crate::schedule#text-form) before the options.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = named().into_iter().find(|(_, stages)| stages == self) {
            return f.write_str(name);
        }
        match self {
            Self::None => f.write_str("dense"),
            Self::Geometric { start, step, stages, ratio, floor } => {
                write!(f, "{start}:{step}:{stages}:{ratio}")?;
                if *floor == 0.0 { Ok(()) } else { write!(f, ":{floor}") }
            }
            Self::Single { layer, ratio } => write!(f, "{layer}={ratio}"),
            Self::Ratios(list) => write_list(f, list, ""),
            Self::Tokens(list) => write_list(f, list, "t"),
            Self::Target { start, step, stages, ratio } => {
                write!(f, "target:{start}:{step}:{stages}:{ratio}")
            }
        }
    }
}

fn named() -> [(&'static str, Stages); 3] {
    [("sdtp", SDTP), ("late", LATE), ("salient", SALIENT)]
}

fn write_list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    list: &[(usize, T)],
    unit: &str,
) -> fmt::Result {
    let entries: Vec<String> =
        list.iter().map(|(layer, keep)| format!("{layer}={keep}{unit}")).collect();
    f.write_str(&entries.join(","))
}

fn parse(text: &str) -> Result<Schedule, String> {
    let (stages, options) = match text.split_once('@') {
        Some((stages, options)) => (stages, Some(options)),
        None => (text, None),
    };
    let mut schedule = Schedule::with_stages(parse_stages(stages)?);
    let mut seen = Vec::new();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let Some((key, value)) = option.split_once('=') else {
            return Err(format!("`{option}` is not an option: {OPTIONS}"));
        };
        match (key, value) {
            ("sinks", _) => schedule.sinks = number(value, "sinks", "a whole number")?,
            ("local", _) => schedule.local = number(value, "local", "a number")?,
            ("kv", "pruned") => schedule.kv_at_stage = KvAtStage::Pruned,
            ("kv", "incoming") => schedule.kv_at_stage = KvAtStage::Incoming,
            ("kv", _) => return Err(format!("kv is `{value}`, not `pruned` or `incoming`")),
            ("crossover", _) => {
                schedule.crossover = number(value, "crossover", "a whole number")?;
            }
            _ => return Err(format!("there is no option `{key}`: {OPTIONS}")),
        }
        if seen.contains(&key) {
            return Err(format!("the option `{key}` is given twice"));
        }
        seen.push(key);
    }
    schedule.check().map_err(|error| error.to_string())?;
    Ok(schedule)
}

const OPTIONS: &str = "expected `sinks=COUNT`, `local=FRACTION`, `kv=pruned`, `kv=incoming` or `crossover=TOKENS` \
     after `@`";

fn parse_stages(text: &str) -> Result<Stages, String> {
    if text == "dense" {
        return Ok(Stages::None);
    }
    if let Some((_, stages)) = named().into_iter().find(|(name, _)| *name == text) {
        return Ok(stages);
    }
    if text.contains('=') {
        return parse_list(text);
    }
    let (target, fields) = match text.strip_prefix("target:") {
        Some(fields) => (true, fields),
        None => (false, text),
    };
    let fields: Vec<&str> = fields.split(':').collect();
    let spacing = |at: usize, what| number(fields[at], what, "a whole number");
    match (target, fields.len()) {
        (true, 4) => Ok(Stages::Target {
            start: spacing(0, "start")?,
            step: spacing(1, "step")?,
            stages: spacing(2, "stages")?,
            ratio: number(fields[3], "ratio", "a number")?,
        }),
        (false, 4 | 5) => Ok(Stages::Geometric {
            start: spacing(0, "start")?,
            step: spacing(1, "step")?,
            stages: spacing(2, "stages")?,
            ratio: number(fields[3], "ratio", "a number")?,
            floor: fields.get(4).map_or(Ok(0.0), |floor| number(floor, "floor", "a number"))?,
        }),
        (true, n) => {
            Err(format!("`target:` takes 4 fields, `target:start:step:stages:ratio`, and not {n}"))
        }
        (false, 1) => Err(format!(
            "`{text}` is not `dense`, `sdtp`, `late`, `start:step:stages:ratio[:floor]`, \
             `target:start:step:stages:ratio` or a list of `layer=ratio` or `layer=COUNTt`"
        )),
        (false, n) => {
            Err(format!("`start:step:stages:ratio[:floor]` has 4 or 5 fields, and not {n}"))
        }
    }
}

/// `layer=ratio` or `layer=COUNTt`, separated by commas, all of one kind.
fn parse_list(text: &str) -> Result<Stages, String> {
    let mut ratios = Vec::new();
    let mut tokens = Vec::new();
    for entry in text.split(',') {
        let Some((layer, keep)) = entry.split_once('=') else {
            return Err(format!("`{entry}` is not `layer=ratio` or `layer=COUNTt`"));
        };
        let layer = number(layer, "layer", "a whole number")?;
        match keep.strip_suffix('t') {
            Some(count) => tokens.push((layer, number(count, "token count", "a whole number")?)),
            None => {
                let ratio: f64 = number(keep, "ratio", "a number")?;
                if ratio > 1.0 {
                    return Err(format!(
                        "the ratio at layer {layer} is {keep}, which must be {A_RATIO}; \
                         a token count is written `{layer}=COUNTt`"
                    ));
                }
                ratios.push((layer, ratio));
            }
        }
    }
    match (ratios.as_slice(), tokens.is_empty()) {
        (&[(layer, ratio)], true) => Ok(Stages::Single { layer, ratio }),
        (_, true) => Ok(Stages::Ratios(ratios)),
        ([], false) => Ok(Stages::Tokens(tokens)),
        _ => Err("a list holds ratios or token counts, not both".to_owned()),
    }
}

fn number<T: FromStr>(text: &str, what: &str, kind: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what} is `{text}`, which is not {kind} in range"))
}
