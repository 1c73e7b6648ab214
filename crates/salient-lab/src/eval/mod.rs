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
    /// Go on with Paul Graham's essays, as plain text.
    Continuation,
}

impl Task {
    /// The asset with the task's text.
    pub fn asset(self) -> &'static str {
        match self {
            Self::Needle | Self::Continuation => "essays",
            Self::Hotpotqa => "hotpotqa",
            Self::Squad => "squad",
        }
    }

    /// Whether the task poses a question, which has a [`Placement`].
    pub fn asks(self) -> bool {
        self != Self::Continuation
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

/// Where the question stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// After the text, at the end of the prompt.
    Last,
    /// Before the text.
    First,
    /// After the text, given once the text alone is prefilled and pruned; several questions where a
    /// text has them, up to [`QUESTIONS`].
    Later,
}

/// Questions that [`Placement::Later`] asks on one text at most.
pub const QUESTIONS: usize = 4;

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::First => "first",
            Self::Later => "later",
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
    /// Where questions stand, each place once.
    pub questions: Vec<Placement>,
    /// The part of the texts that the items are of.
    pub split: Split,
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
    /// Where the question stands, where there is one.
    pub question: Option<Placement>,
    /// The place among the items of this task and length.
    pub index: usize,
}

impl Settings {
    /// Every item, by task, length and placement.
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
        if self.tasks.is_empty()
            || self.lengths.is_empty()
            || self.depths.is_empty()
            || self.questions.is_empty()
        {
            return usage("at least one task, length, depth and placement are needed".into());
        }
        let most = self.split.range().len();
        if self.tasks.contains(&Task::Hotpotqa) && self.items > most {
            return usage(format!("--items {}: that part of hotpotqa has {most}", self.items));
        }
        let mut items = Vec::new();
        for &task in &self.tasks {
            let lengths = match task {
                Task::Hotpotqa => vec![None],
                _ => self.lengths.iter().copied().map(Some).collect(),
            };
            let questions = match task.asks() {
                true => self.questions.iter().copied().map(Some).collect(),
                false => vec![None],
            };
            for length in lengths {
                for &question in &questions {
                    items.extend((0..self.items).map(|index| {
                        let depth = self.depths[index % self.depths.len()];
                        let depth = (task == Task::Needle).then_some(depth);
                        Item { task, length, depth, question, index }
                    }));
                }
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
            question: item.question,
            split: self.split,
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
            questions: vec![Placement::First, Placement::Later],
            split: Split::Report,
        }
    }

    #[test]
    fn items_take_depths_in_turn_and_only_where_there_is_a_choice() {
        let items = settings().plan().unwrap();
        assert_eq!(items.len(), 2 * 2 * 3 + 2 * 3);
        let depths: Vec<_> = items[..3].iter().map(|item| item.depth.unwrap()).collect();
        assert_eq!(depths, [10.0, 90.0, 10.0]);
        assert_eq!((items[5].length, items[6].length), (Some(512), Some(1024)));
        assert!(items[12..].iter().all(|item| item.length.is_none() && item.depth.is_none()));
    }

    #[test]
    fn every_placement_has_its_items_where_there_is_a_question() {
        let settings = Settings { tasks: vec![Task::Squad, Task::Continuation], ..settings() };
        let items = settings.plan().unwrap();
        let questions: Vec<_> = items.iter().step_by(3).map(|item| item.question).collect();
        let both = [Some(Placement::First), Some(Placement::Later)];
        assert_eq!(questions, [both, both, [None, None]].concat());
        for (item, question) in items.iter().step_by(3).zip(questions) {
            assert_eq!(settings.key(item, DENSE, DENSE).question, question);
        }
    }

    /// Item i is the same however many there are.
    #[test]
    fn more_items_go_on_after_fewer() {
        let (few, many) = (settings(), Settings { items: 5, ..settings() });
        let (few, many) = (few.plan().unwrap(), many.plan().unwrap());
        for (few, many) in few.chunks(3).zip(many.chunks(5)) {
            assert_eq!(few, &many[..3]);
        }
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
        refused(|s| s.questions.clear(), "placement");
    }

    #[test]
    fn tasks_and_placements_are_written_as_they_are_read() {
        for task in Task::value_variants() {
            let name = task.to_string();
            assert_eq!(Task::from_str(&name, false).unwrap(), *task);
            assert_eq!(serde_json::to_value(task).unwrap(), name);
        }
        for placement in Placement::value_variants() {
            let name = placement.to_string();
            assert_eq!(Placement::from_str(&name, false).unwrap(), *placement);
            assert_eq!(serde_json::to_value(placement).unwrap(), name);
        }
    }
}
