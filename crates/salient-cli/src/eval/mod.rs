//! Evaluation of pruning against the dense run: what is measured, and what becomes of the measures.

pub mod measure;
pub mod record;
pub mod summary;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use record::{Key, ModelId, Outcome, Record, Results, StageShare};
pub use summary::{Row, Summary};

use crate::corpus::Split;
use crate::error::{Error, Result};

/// The scorer and the schedule of the run that everything is compared with.
pub const DENSE: &str = "dense";

/// Tokens after the prefix that [`Task::Continuation`] scores.
pub const CONTINUATION: usize = 64;

/// Tokens that an answer of [`Task::Needle`] may take.
pub const NEEDLE_ANSWER: usize = 16;

/// What the model is asked to do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Find a magic number in Paul Graham's essays (RULER, `niah_single_2`).
    Needle,
    /// Answer a question that needs two of ten paragraphs.
    Hotpotqa,
    /// Answer a question that needs one paragraph among distractors.
    Squad,
    /// Go on with a State of the Union message.
    Continuation,
}

impl Task {
    /// The asset with the task's text.
    pub fn asset(self) -> &'static str {
        match self {
            Self::Needle => "essays",
            Self::Hotpotqa => "hotpotqa",
            Self::Squad => "squad",
            Self::Continuation => "sotu",
        }
    }

    /// Whether the task poses a question that can stand before or after the text.
    pub fn asks(self) -> bool {
        matches!(self, Self::Hotpotqa | Self::Squad)
    }

    /// Tokens that follow the prompt at most, as far as they are known beforehand.
    pub fn reserve(self) -> usize {
        match self {
            Self::Needle => NEEDLE_ANSWER,
            Self::Continuation => CONTINUATION,
            Self::Hotpotqa | Self::Squad => 0,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Needle => "needle",
            Self::Hotpotqa => "hotpotqa",
            Self::Squad => "squad",
            Self::Continuation => "continuation",
        })
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// The tasks, each once.
    pub tasks: Vec<Task>,
    /// Items per task and length.
    pub items: usize,
    /// Tokens of a whole prompt. HotpotQA's prompts are as long as they are.
    pub lengths: Vec<usize>,
    /// Where needles lie, in percent of the text; the items take them in turn.
    pub depths: Vec<f64>,
    /// Chooses the items.
    pub seed: u64,
    /// Whether questions come before the text.
    pub question_first: bool,
}

/// One item of a task at a length, to be run once dense and once per scorer and schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// The task.
    pub task: Task,
    /// Tokens of the whole prompt, where the task leaves a choice.
    pub length: Option<usize>,
    /// The needle's depth.
    pub depth: Option<f64>,
    /// The place among the items of this task and length.
    pub index: usize,
}

impl Settings {
    /// Every item, by task and length.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything empty or out of range.
    pub fn plan(&self) -> Result<Vec<Item>> {
        let usage = |problem: String| Err(Error::Usage(problem));
        if self.items == 0 {
            return usage("--items 0: at least one item is needed".into());
        }
        if self.lengths.contains(&0) {
            return usage("--length 0: a prompt needs at least one token".into());
        }
        if let Some(depth) = self.depths.iter().find(|depth| !(0.0..=100.0).contains(*depth)) {
            return usage(format!("a depth of {depth}: must be between 0 and 100"));
        }
        if self.tasks.is_empty() || self.lengths.is_empty() || self.depths.is_empty() {
            return usage("at least one task, length and depth are needed".into());
        }
        let most = Split::Report.range().len();
        if self.tasks.contains(&Task::Hotpotqa) && self.items > most {
            return usage(format!("--items {}: hotpotqa has {most} to report on", self.items));
        }
        let mut items = Vec::new();
        for &task in &self.tasks {
            let lengths = match task {
                Task::Hotpotqa => vec![None],
                _ => self.lengths.iter().copied().map(Some).collect(),
            };
            for length in lengths {
                items.extend((0..self.items).map(|index| {
                    let depth = self.depths[index % self.depths.len()];
                    let depth = (task == Task::Needle).then_some(depth);
                    Item { task, length, depth, index }
                }));
            }
        }
        Ok(items)
    }

    /// The key of an item's result under a scorer and a schedule.
    pub fn key(&self, item: &Item, scorer: &str, schedule: &str) -> Key {
        Key {
            task: item.task,
            scorer: scorer.to_owned(),
            schedule: schedule.to_owned(),
            length: item.length,
            depth: item.depth,
            question_first: item.task.asks() && self.question_first,
            index: item.index,
            seed: self.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            tasks: vec![Task::Needle, Task::Hotpotqa],
            items: 3,
            lengths: vec![512, 1024],
            depths: vec![10.0, 90.0],
            seed: 7,
            question_first: true,
        }
    }

    #[test]
    fn items_take_depths_in_turn_and_only_where_there_is_a_choice() {
        let items = settings().plan().unwrap();
        assert_eq!(items.len(), 2 * 3 + 3);
        let depths: Vec<_> = items[..3].iter().map(|item| item.depth.unwrap()).collect();
        assert_eq!(depths, [10.0, 90.0, 10.0]);
        assert_eq!(items[3].length, Some(1024));
        assert!(items[6..].iter().all(|item| item.length.is_none() && item.depth.is_none()));
    }

    #[test]
    fn only_tasks_with_a_question_know_where_it_stands() {
        let (settings, items) = (settings(), settings().plan().unwrap());
        assert!(!settings.key(&items[0], DENSE, DENSE).question_first);
        assert!(settings.key(&items[8], DENSE, DENSE).question_first);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |change: fn(&mut Settings), said: &str| {
            let mut settings = settings();
            change(&mut settings);
            let Err(Error::Usage(message)) = settings.plan() else { panic!("{said}: accepted") };
            assert!(message.contains(said), "{message}");
        };
        refused(|s| s.items = 0, "--items 0");
        refused(|s| s.items = 351, "350");
        refused(|s| s.lengths = vec![0], "--length 0");
        refused(|s| s.depths = vec![101.0], "between 0 and 100");
        refused(|s| s.depths = vec![f64::NAN], "between 0 and 100");
        refused(|s| s.tasks.clear(), "at least one");
    }

    #[test]
    fn tasks_are_written_as_they_are_read() {
        for task in Task::value_variants() {
            let name = task.to_string();
            assert_eq!(Task::from_str(&name, false).unwrap(), *task);
            assert_eq!(serde_json::to_value(task).unwrap(), name);
        }
    }
}
