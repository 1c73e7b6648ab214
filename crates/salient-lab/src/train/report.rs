//! What became of a run, for machines and, as a model card, for people.

use std::fmt::Write;

use serde::Serialize;

use super::{Config, Scored, StageMetrics};
use crate::machine::Machine;

/// A run that is over.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command line.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// The model's file or folder.
    pub model: String,
    /// The model's [`fingerprint`](salient_candle::Model::fingerprint).
    pub fingerprint: String,
    /// The texts.
    pub texts: TextsReport,
    /// All options.
    pub config: Config,
    /// The layers of the stages.
    pub layers: Vec<usize>,
    /// Steps taken in the first and in the second phase.
    pub steps: [usize; 2],
    /// In the last step of the second phase, if it has any, the share of tokens that the mask left
    /// behind every stage.
    pub alive: Vec<f64>,
    /// Where it ran: `cpu`, or a CUDA device.
    pub device: String,
    /// On the held-out texts, for the same target.
    pub held_out: Vec<Row>,
    /// The file of predictors.
    pub predictors: FileHash,
}

/// The texts of a run.
#[derive(Debug, Serialize)]
pub struct TextsReport {
    /// Those trained on.
    pub train: usize,
    /// Those held out.
    pub held_out: usize,
    /// Tokens of all of them.
    pub tokens: usize,
    /// The hash of their tokens, and of which are scored.
    pub sha256: String,
}

/// A file and what is in it.
#[derive(Debug, Serialize)]
pub struct FileHash {
    /// Its name.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Its hash.
    pub sha256: String,
}

/// How well a scorer orders tokens.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The scorer.
    pub scorer: String,
    /// By stage.
    pub stages: Vec<StageMetrics>,
}

impl Report {
    /// The model card, in Markdown.
    pub fn card(&self) -> String {
        let Self { config, texts, machine, predictors, .. } = self;
        let (options, data) = (&config.options, &config.data);
        let mut card = String::new();
        let mut line = |text: String| writeln!(card, "{text}").expect("memory takes all");
        line(format!("# Predictors for {}\n", self.model));
        line(format!(
            "One predictor per stage of the schedule `{}`: {}a layer of {} units with GELU, one score \
             per token. They were trained to order tokens by `{}` with the model frozen, and fit this \
             model alone, at layers {}.{}\n",
            options.schedule,
            if options.norm { "RMSNorm, " } else { "" },
            options.width,
            options.target,
            list(&self.layers),
            match options.contrast {
                0 => String::new(),
                tokens => format!(
                    " What a token is worth is taken over the geometric mean of {tokens} around it."
                ),
            },
        ));

        line("## On held-out texts\n".into());
        line(format!(
            "{} texts that no predictor was trained on, against the same target: the share of pairs \
             ordered alike (0.5 is chance), Kendall's tau-b, and the share of the stage's budget that \
             is among the best by target. The target itself would have 1 throughout.\n",
            texts.held_out
        ));
        line("| layer | scorer | pair accuracy | tau | overlap |".into());
        line("|---|---|---|---|---|".into());
        for index in 0..self.layers.len() {
            for row in &self.held_out {
                let stage = &row.stages[index];
                line(format!(
                    "| {} | {} | {:.3} | {:.3} | {:.3} |",
                    stage.layer, row.scorer, stage.pair_accuracy, stage.kendall_tau, stage.overlap
                ));
            }
        }
        for row in &self.held_out {
            let mean = StageMetrics::mean_pair_accuracy(&row.stages);
            line(format!("| mean | {} | {mean:.3} | | |", row.scorer));
        }

        line("\n## Data\n".into());
        line(format!(
            "{} texts to train on and {} held out, {} tokens in all: {} HotpotQA questions (dev, \
             distractor setting, of the first 6000) with paragraphs up to {} tokens, the question last \
             and the answer after it, {} stretches of {} tokens from State of the Union messages, and \
             {} questions for a fact that was hidden in such a message. Marks are taken by the log-likelihood and the attention of {}.\n",
            texts.train,
            texts.held_out,
            texts.tokens,
            data.questions,
            data.tokens,
            data.speeches,
            data.tokens,
            data.facts,
            match data.scored {
                Scored::All => "all tokens",
                Scored::Question => "the questions' and answers' tokens (of speeches, all)",
                Scored::Answer => "the answers' tokens (of speeches, all)",
            },
        ));

        line("## How they were made\n".into());
        let [fast, full] = self.steps;
        line(format!(
            "`{}`, which took {fast} steps in the first phase and {full} in the second.{}\n",
            self.command,
            if self.alive.is_empty() {
                String::new()
            } else {
                let alive: Vec<_> = self.alive.iter().map(|share| format!("{share:.2}")).collect();
                format!(
                    " In the last of these the mask left {} of the tokens behind the stages: what \
                     predictors keep while they are trained, which the loss `keep_ratio` alone would \
                     hold to the schedule.",
                    alive.join(", ")
                )
            }
        ));
        line(format!("```toml\n{}```\n", config.to_toml()));

        line("| | |\n|---|---|".into());
        line(format!("| model | `{}` |", self.fingerprint));
        line(format!("| texts | sha256 `{}` |", texts.sha256));
        let FileHash { name, bytes, sha256 } = predictors;
        line(format!("| {name} | {bytes} bytes, sha256 `{sha256}` |"));
        let commit = machine.commit.as_deref().unwrap_or("unknown");
        line(format!("| salient | {}, commit {commit} |", machine.version));
        let cpu = machine.cpu.as_deref().unwrap_or(machine.architecture);
        line(format!("| machine | {cpu}, {} cores; run on {} |", machine.cores, self.device));
        card
    }
}

fn list(layers: &[usize]) -> String {
    layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
