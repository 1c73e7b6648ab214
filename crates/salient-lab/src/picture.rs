//! What became of every token of a document: the data behind the page and the terminal view.

use serde::Serialize;

use crate::error::{Error, Result};

/// A document and the stages that dropped its tokens.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Picture {
    /// What is shown, such as the document's name.
    pub title: String,
    /// The question that was asked of it, if one was.
    pub question: Option<String>,
    /// What the model answered, if it did.
    pub answer: Option<String>,
    /// Figures worth a glance, each a name and a value: model, scorer, prefill time.
    pub facts: Vec<(String, String)>,
    /// All tokens, by position.
    pub tokens: Vec<Token>,
    /// The stages, from the first layer up.
    pub stages: Vec<Stage>,
}

/// A token of the document.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Token {
    /// Its text, whitespace included; empty where a character is spread over several tokens and is
    /// shown at another.
    pub text: String,
    /// The index of the stage that dropped it; nothing if it was kept to the end.
    pub dropped_by: Option<usize>,
    /// Its score at that stage, or at the last one if it was kept.
    pub score: Option<f32>,
}

/// A stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The block on entry to which it drops tokens.
    pub layer: usize,
    /// How many tokens it keeps.
    pub kept: usize,
}

impl Picture {
    /// Checks that tokens and stages tell the same story.
    ///
    /// # Errors
    /// When there is no token, a token was dropped by a stage that is not there, or a stage keeps
    /// another number of tokens than the tokens say.
    pub fn check(&self) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(Error::Invalid("a picture of no tokens".into()));
        }
        let stages = self.stages.len();
        let mut dropped = vec![0; stages];
        for (position, token) in self.tokens.iter().enumerate() {
            match token.dropped_by {
                Some(stage) if stage >= stages => {
                    let problem =
                        format!("token {position}: stage {stage}, but there are {stages}");
                    return Err(Error::Invalid(problem));
                }
                Some(stage) => dropped[stage] += 1,
                None => {}
            }
        }
        let mut alive = self.tokens.len();
        for (index, stage) in self.stages.iter().enumerate() {
            alive -= dropped[index];
            if alive != stage.kept {
                let problem = format!(
                    "stage {index} keeps {} tokens, but {alive} are left after it",
                    stage.kept
                );
                return Err(Error::Invalid(problem));
            }
        }
        Ok(())
    }

    /// How many tokens each stage drops.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = usize> {
        let before = std::iter::once(self.tokens.len()).chain(self.stages.iter().map(|s| s.kept));
        before.zip(&self.stages).map(|(before, stage)| before - stage.kept)
    }

    /// How many tokens are left after the last stage.
    pub(crate) fn kept(&self) -> usize {
        self.stages.last().map_or(self.tokens.len(), |stage| stage.kept)
    }

    /// The share of the document's tokens that `count` is.
    pub(crate) fn share(&self, count: usize) -> f64 {
        count as f64 / self.tokens.len() as f64
    }

    /// How long a token lived, for its colour: 0 for what the first stage dropped, 1 for what was
    /// kept, with a step between the last stage and that.
    pub(crate) fn strength(&self, dropped_by: Option<usize>) -> f64 {
        match dropped_by {
            None => 1.0,
            Some(stage) => 0.8 * stage as f64 / (self.stages.len().max(2) - 1) as f64,
        }
    }
}

/// Pictures for tests.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// Words of which a third goes at each of two stages.
    pub(crate) fn small() -> Picture {
        let words = ["The ", "<b>", "&amp;", "\n", " \u{1b}[31m", "end"];
        let stages = [None, Some(0), Some(1), None, Some(1), Some(0)];
        let token = |(text, dropped_by): (&str, Option<usize>)| Token {
            text: text.into(),
            dropped_by,
            score: dropped_by.map(|stage| 0.25 + stage as f32),
        };
        Picture {
            title: "A </title> \"page\"".into(),
            question: Some("Who <is> it?".into()),
            answer: None,
            facts: vec![("scorer".into(), "last & max".into())],
            tokens: words.into_iter().zip(stages).map(token).collect(),
            stages: vec![Stage { layer: 14, kept: 4 }, Stage { layer: 16, kept: 2 }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let good = samples::small();
        good.check().unwrap();
        assert_eq!(good.dropped().collect::<Vec<_>>(), [2, 2]);
        let broken = |change: fn(&mut Picture)| {
            let mut picture = good.clone();
            change(&mut picture);
            picture.check()
        };
        assert!(broken(|picture| picture.tokens.clear()).is_err());
        assert!(broken(|picture| picture.tokens[0].dropped_by = Some(2)).is_err());
        assert!(broken(|picture| picture.stages[0].kept = 5).is_err());
        assert!(broken(|picture| picture.tokens[0].dropped_by = Some(0)).is_err());
    }

    #[test]
    fn later_means_stronger() {
        let mut picture = samples::small();
        let ramp = |picture: &Picture| {
            let dropped = (0..picture.stages.len()).map(Some);
            dropped.chain([None]).map(|stage| picture.strength(stage)).collect::<Vec<_>>()
        };
        assert!(ramp(&picture).is_sorted_by(|a, b| a < b));
        picture.stages.truncate(1);
        assert_eq!(ramp(&picture), [0.0, 1.0]);
    }
}
